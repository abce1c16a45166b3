"""A model's layers as single problems: what the sum of the measured ops is checked against.

A layer of one chip's shard, with nothing sent: where chips of a tensor group would share norms and
sums along the sequence, the problem has all tokens.
"""

from harness.errors import PlanError
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Phase, Shard, check_shard
from kernels.op import Mode, Problem, problem


def layer_kinds(model: ModelSpec) -> tuple[LayerKind, ...]:
    """The kinds of layer the model has."""
    counts = {LayerKind.DENSE: model.num_dense_layers, LayerKind.MOE: model.num_moe_layers}
    return tuple(kind for kind, count in counts.items() if count)


def layer_problem(model: ModelSpec, shard: Shard, kind: LayerKind, phase: Phase) -> Problem:
    """One layer of that kind as one problem.

    Raises:
        PlanError: when the shard does not divide the model, or no op is such a layer.
    """
    check_shard(model, shard)
    if kind is LayerKind.MOE or model.latent_attention is not None:
        attention = "grouped-query" if model.latent_attention is None else "latent"
        raise PlanError(
            f"model: {model.name} has {kind} layers with {attention} attention, which no op is; "
            "layers that are one have a dense network and grouped-query attention. Set "
            "suite.layers=[] to measure its ops alone, or choose another model."
        )
    if shard.context != 1:
        raise PlanError(
            f"shard.context: a layer is measured on one chip, which sees whole sequences, not "
            f"one of {shard.context} parts. Set shard.context=1."
        )
    return problem(
        "dense_layer",
        shard.dtype,
        Mode(phase),
        _variant(model),
        B=shard.microbatch_size,
        S=shard.sequence_length,
        H=model.hidden,
        A=model.num_heads // shard.tensor,
        G=max(1, model.num_kv_heads // shard.tensor),
        D=model.head_dim,
        F=model.ffn // shard.tensor,
    )


def _variant(model: ModelSpec) -> str:
    features = (
        model.is_ffn_gated,
        model.has_bias,
        model.has_qk_norm,
        model.num_learned_positions > 0,
    )
    variants = {
        (True, False, False, False): "gated",
        (True, False, True, False): "gated_qk_norm",
        (False, True, False, True): "plain",
    }
    if features not in variants:
        names = ("is_ffn_gated", "has_bias", "has_qk_norm", "num_learned_positions")
        told = ", ".join(f"{name}={getattr(model, name)}".lower() for name in names)
        raise PlanError(
            f"model: no layer is measured with {told}; those of Llama, Qwen3 and GPT-3 are. "
            "Set suite.layers=[] to measure its ops alone."
        )
    return variants[features]


def layer_problems(model: ModelSpec, shard: Shard, phase: Phase) -> tuple[Problem, ...]:
    """A layer of each kind that the model has. Raises PlanError as `layer_problem`."""
    return tuple(layer_problem(model, shard, kind, phase) for kind in layer_kinds(model))
