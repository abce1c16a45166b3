"""The ops of one pass over a layer, apart from attention's core, and that core.

All but the core depends on the number of tokens alone, whoever they belong to: sequences that
decode, guesses that are checked, or chunks of prompts that ride along. The core depends on whose
they are.
"""

from dataclasses import replace

from harness.extrapolate.serving.spec import ServingSpec
from harness.serving_projection import ReplicaPlan
from harness.workload.model import ModelSpec
from harness.workload.step import (
    Direction,
    LayerKind,
    Phase,
    Shard,
    WorkItem,
    embedding_work,
    head_work,
    layer_work,
)
from kernels.op import Mode, Problem, problem

CORE = "attention core"


def _shard(plan: ReplicaPlan, spec: ServingSpec, sequences: int, length: int) -> Shard:
    return Shard(
        tensor=plan.tensor,
        expert=plan.expert,
        microbatch_size=sequences,
        sequence_length=length,
        dtype=spec.dtype,
        linear_dtype="" if spec.weight_dtype == spec.dtype else spec.weight_dtype,
    )


def layer_items(
    model: ModelSpec,
    plan: ReplicaPlan,
    spec: ServingSpec,
    kind: LayerKind,
    phase: Phase,
    num_tokens: int,
) -> tuple[WorkItem, ...]:
    """The ops of one layer for so many tokens of an attention group, without attention's core."""
    if phase is Phase.DECODE:
        shard = _shard(plan, spec, num_tokens, spec.mean_context)
    else:
        shard = _shard(plan, spec, 1, num_tokens)
    work = layer_work(model, shard, kind, phase)
    return tuple(item for item in work if not item.role.startswith(CORE))


def _cores(model: ModelSpec, shard: Shard, kind: LayerKind, phase: Phase) -> tuple[WorkItem, ...]:
    return tuple(item for item in layer_work(model, shard, kind, phase) if item.role == CORE)


def _with(made: Problem, dtype: str, **axes: int) -> Problem:
    sizes = {name: axes.get(name, size) for name, size in made.axes}
    return problem(made.op, dtype, made.mode, made.variant, **sizes)


def decode_core(
    model: ModelSpec, plan: ReplicaPlan, spec: ServingSpec, kind: LayerKind, sequences: int
) -> tuple[WorkItem, ...]:
    """Attention's core for sequences that decode; guesses share the cache of their sequence.

    Checking k + 1 tokens of a sequence has the work of k + 1 times as many heads: queries share
    the keys in the same way.
    """
    shard = _shard(plan, spec, sequences, spec.mean_context)
    checked = spec.speculation.checked_tokens
    dtype = spec.cache_dtype or spec.dtype
    return tuple(
        replace(core, problem=_with(core.problem, dtype, H=checked * core.problem["H"]))
        for core in _cores(model, shard, kind, Phase.DECODE)
    )


def prefill_core(
    model: ModelSpec,
    plan: ReplicaPlan,
    spec: ServingSpec,
    kind: LayerKind,
    chunk: int,
    prompts: int,
) -> tuple[WorkItem, ...]:
    """Attention's core for one chunk of prompts: the mean one, from the first to the last.

    Chunks of c tokens see all before them: c (s_0 + c/2) pairs, whose mean over the chunks of a
    prompt is that of keys halfway. What is cached already comes before.
    """
    shard = _shard(plan, spec, prompts, spec.input_tokens)
    cached = spec.input_tokens - spec.new_input_tokens
    keys = cached + (spec.new_input_tokens + chunk) // 2
    keys = max(chunk, keys)
    return tuple(
        replace(core, problem=_with(core.problem, spec.dtype, Q=chunk, S=keys))
        for core in _cores(model, shard, kind, Phase.PREFILL)
    )


def first_items(
    model: ModelSpec, plan: ReplicaPlan, spec: ServingSpec, num_tokens: int
) -> tuple[WorkItem, ...]:
    """The embedding of so many tokens."""
    return embedding_work(model, _shard(plan, spec, num_tokens, 1), Phase.DECODE)


def last_items(
    model: ModelSpec, plan: ReplicaPlan, spec: ServingSpec, num_rows: int
) -> tuple[WorkItem, ...]:
    """The output matrix for so many positions, and the draw of their tokens."""
    head = head_work(model, _shard(plan, spec, num_rows, 1), Phase.DECODE)
    drawn = problem(
        "sampling",
        spec.dtype,
        Mode.FORWARD,
        "top_k_top_p",
        T=-(-num_rows // plan.tensor),
        V=model.vocab,
    )
    return (*head, WorkItem(drawn, 1, "sampling", Phase.DECODE, Direction.FORWARD))
