"""ParallelSpec: what is asked of a training plan; a degree that is None is searched."""

from dataclasses import dataclass

CONTEXT_EXCHANGES = ("gather", "ring", "all_to_all")
"""How the chips of a sequence come by the keys and values of the others: all gathered at once,
handed on block by block, or exchanged for a part of the heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSpec:
    """The work of one step and how it may be spread over the chips."""

    global_batch_tokens: int
    """Tokens of one optimizer step over the whole cluster."""
    sequence_length: int
    dtype: str
    """Type of the model and, unless `linear_dtype` says otherwise, of its matrix products: `bf16`,
    `fp16` or `fp32`."""
    linear_dtype: str = ""
    """Type in which layers multiply by their weights, as `fp8`; empty for `dtype`."""
    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    expert: int | None = None
    expert_load: float | None = None
    """Tokens of the busiest expert over the mean of all, 1 or more; None is 1, as in published
    runs, whose routing is mostly forced to be even."""
    context: int | None = None
    context_exchange: str | None = None
    """One of CONTEXT_EXCHANGES; None is the fastest that is legal."""
    virtual_stages: int | None = None
    microbatch_size: int | None = None
    zero_stage: int | None = None
    """What the data-parallel group shares: 0 nothing, 1 optimizer, 2 gradients, 3 weights."""
    shard_group: int | None = None
    """Chips of the data and context groups that share those, with replicas outside (hybrid
    sharding); 0 is all. None is all, and under ZeRO 3 also those of a scale-up domain."""
    recompute: str | None = None
    """What is computed again backward: `none`, `selective` (attention core) or `full`."""
    schedule: str | None = None
    """Order of work in the pipeline; None is 1F1B, interleaved or not, whichever is faster."""
    layers_per_stage: tuple[int, ...] = ()
    """Layers of each of the `pipeline` x `virtual_stages` stages along the model; empty is as
    equal as they can be."""
    max_tensor: int | None = None
    """Most chips of a tensor group when searched, inside a scale-up domain; None is 16."""
    software: str = ""
    """The generation of training software whose calibrated constants hold; empty for priors."""
    source: str = ""
    """Why the batch is what it is."""

    @property
    def global_batch_sequences(self) -> int:
        """Sequences of one step, at least one."""
        return max(1, self.global_batch_tokens // self.sequence_length)
