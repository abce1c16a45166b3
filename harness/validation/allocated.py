"""What a framework's allocator reports as its peak, from the memory that the model counts.

The model counts what training needs. A framework keeps more: the terms here are those of its
published code, by the generation of software.
"""

from dataclasses import replace

from harness.extrapolate.memory import GRADIENT_BYTES, memory_use
from harness.extrapolate.shard_table import SIZE_BYTES
from harness.projection import PlanChoice
from harness.validation.rows import Configuration
from harness.workload.model import ModelSpec

OUTSIDE = "buffers and driver"
"""The part that no allocator of a framework sees."""
RESERVED = "fragmentation"
"""The part that is reserved and belongs to no tensor."""


def peak_bytes(config: Configuration, plan: PlanChoice, *, is_reserved: bool) -> float:
    """Bytes of the fullest chip in the framework's allocator, those only reserved included or not.

    Raises:
        PlanError: when the plan cuts the model unevenly.
    """
    parallel = config.parallel
    use = memory_use(config.model, plan, parallel.sequence_length, parallel.dtype)
    parts = {name: num_bytes for name, num_bytes in use.parts if name != OUTSIDE}
    tensors = sum(num_bytes for name, num_bytes in parts.items() if name != RESERVED)
    lost = parts[RESERVED] / tensors if is_reserved else 0.0
    if config.software == "torchtitan":
        tensors += _of_torchtitan(config, plan, parts)
    return tensors * (1 + lost)


def _of_torchtitan(config: Configuration, plan: PlanChoice, parts: dict[str, float]) -> float:
    """What torchtitan keeps beyond what the model counts.

    The gradient of the logits, in both of their types; with tensor parallelism the inputs of the
    two blocks of a layer, gathered; in a pipeline a stage's weights and their gradients whole, as
    they are not shared again between microbatches; with selective checkpointing less, the outputs
    of every second product alone.

    Source: pytorch/torchtitan 9dec370, torchtitan/parallelisms/parallelize_llama.py
    (PrepareModuleInput, reshard_after_forward, _apply_ac_to_transformer_block) and train.py
    (the logits as floats).
    """
    more = parts["logits"]
    model, parallel = config.model, config.parallel
    size = SIZE_BYTES[parallel.dtype]
    tokens = plan.microbatch_size * parallel.sequence_length / plan.context
    if plan.tensor > 1:
        more += 2 * size * tokens * model.hidden
    if plan.pipeline > 1:
        whole = memory_use(
            model, replace(plan, zero_stage=0), parallel.sequence_length, parallel.dtype
        )
        more += (1 + GRADIENT_BYTES / size) * dict(whole.parts)["weights"]
    if plan.recompute == "selective":
        layers = model.num_layers / plan.pipeline
        kept = size * _every_second_product(model)
        more += kept * tokens * layers / plan.tensor - parts["activations"]
    return more


def _every_second_product(model: ModelSpec) -> float:
    """Elements per token and layer: its input, queries, values, attention, gate and output."""
    heads, kv_heads = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    return 2 * model.hidden + 2 * heads + kv_heads + model.ffn
