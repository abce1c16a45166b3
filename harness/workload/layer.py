"""A model's layers as single problems: what the sum of the measured ops is checked against.

A layer of one chip's shard, with nothing sent: where chips of a tensor group would share norms,
sums, routers and the narrow projections of latent attention along the sequence, the problem has all
tokens. Each expert is cut by tensor as a dense network is, so that the chip multiplies as much as
one with whole experts and its part of the tokens. Where chips share the experts, tokens choose
among those of this chip, to which as many rows come as in a balanced group.
"""

from harness.errors import PlanError
from harness.workload.model import Experts, LatentAttention, ModelSpec
from harness.workload.step import (
    LayerKind,
    Phase,
    Shard,
    WorkItem,
    check_shard,
    layer_parameters_per_chip,
    layer_work,
    merged,
    optimizer_work,
)
from kernels.op import Mode, Problem, problem

_OPS = {
    frozenset({"a gated network"}): ("dense_layer", "gated"),
    frozenset({"a gated network", "norms of heads"}): ("dense_layer", "gated_qk_norm"),
    frozenset({"biases", "learned positions"}): ("dense_layer", "plain"),
    frozenset({"a gated network", "norms of heads", "softmax routing"}): ("moe_layer", ""),
    frozenset({"a gated network", "latent attention"}): ("latent_layer", ""),
    frozenset(
        {"a gated network", "latent attention", "sigmoid_groups routing", "a shared expert"}
    ): ("latent_moe_layer", ""),
}
"""The op, and its variant, that is a layer with these features."""


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
    if shard.context != 1:
        raise PlanError(
            f"shard.context: a layer is measured on one chip, which sees whole sequences, not "
            f"one of {shard.context} parts. Set shard.context=1."
        )
    experts = model.experts if kind is LayerKind.MOE else None
    op, variant = _op(model, experts)
    sizes = {
        "B": shard.microbatch_size,
        "S": shard.sequence_length,
        "H": model.hidden,
        "A": model.num_heads // shard.tensor,
        **_attention_sizes(model, shard),
        **_network_sizes(model, shard, experts),
    }
    return problem(op, shard.dtype, Mode(phase), variant, **sizes)


def _op(model: ModelSpec, experts: Experts | None) -> tuple[str, str]:
    latent = model.latent_attention
    found = {
        "a gated network": model.is_ffn_gated,
        "a shared expert": experts is not None and experts.num_shared_experts > 0,
        "biases": model.has_bias,
        "latent attention": latent is not None,
        "learned positions": model.num_learned_positions > 0,
        "norms of heads": model.has_qk_norm,
        "queries that are not latent": latent is not None and latent.q_lora_rank == 0,
    }
    if experts is not None:
        found[f"{experts.routing} routing"] = True
        found["experts of another width"] = experts.latent_width > 0
        found["a state space"] = model.state_space is not None
    else:
        found["attention alone"] = model.ffn == 0
    features = frozenset(name for name, is_there in found.items() if is_there)
    if features not in _OPS:
        told = ", ".join(sorted(features)) or "a plain network"
        raise PlanError(
            f"model: no op is a layer of {model.name}, with {told}; those of Llama, Qwen3, GPT-3 "
            "and DeepSeek-V3 are one. Set suite.layers=[] to measure its ops alone."
        )
    return _OPS[features]


def _attention_sizes(model: ModelSpec, shard: Shard) -> dict[str, int]:
    latent = model.latent_attention
    if latent is None:
        return {"G": max(1, model.num_kv_heads // shard.tensor), "D": model.head_dim}
    return {
        "Q": latent.q_lora_rank,
        "C": latent.kv_lora_rank,
        "N": latent.qk_nope_head_dim,
        "R": latent.qk_rope_head_dim,
        "V": latent.v_head_dim,
    }


def _network_sizes(model: ModelSpec, shard: Shard, experts: Experts | None) -> dict[str, int]:
    if experts is None:
        return {"F": model.ffn // shard.tensor}
    own, top_k = experts.num_experts // shard.expert, experts.num_experts_per_token
    if own < top_k:
        raise PlanError(
            f"shard.expert: {shard.expert} chips have {own} experts each, of which a token "
            f"cannot choose {top_k}. Set shard.expert to at most {experts.num_experts // top_k}."
        )
    width = experts.expert_ffn // shard.tensor
    sizes = {"E": own, "K": top_k, "F": width}
    if experts.num_shared_experts:
        sizes["W"] = experts.num_shared_experts * width
    return sizes


def layer_problems(model: ModelSpec, shard: Shard, phase: Phase) -> tuple[Problem, ...]:
    """A layer of each kind that the model has. Raises PlanError as `layer_problem`."""
    return tuple(layer_problem(model, shard, kind, phase) for kind in layer_kinds(model))


def is_layer(layer: Problem) -> bool:
    """The problem is a whole layer."""
    return any(op == layer.op for op, _ in _OPS.values())


def work_of_layer(layer: Problem) -> tuple[WorkItem, ...]:
    """The ops that a projection would sum for a layer of just these sizes, with their counts.

    In training the update of the layer's weights is among them. It is what one chip does that
    shares the layer with nobody: norms and sums have all tokens, as in the layer itself.

    Raises:
        PlanError: when the shared expert of the layer is not as wide as whole experts.
    """
    model, kind = _model_of(layer)
    phase = Phase(layer.mode)
    shard = Shard(microbatch_size=layer["B"], sequence_length=layer["S"], dtype=layer.dtype)
    items = layer_work(model, shard, kind, phase)
    if phase is Phase.TRAINING:
        num_weights = sum(layer_parameters_per_chip(model, shard, kind))
        items = (*items, *optimizer_work(num_weights, layer.dtype))
    return merged(items)


def _model_of(layer: Problem) -> tuple[ModelSpec, LayerKind]:
    """A model of that single layer, and the kind that the layer is."""
    axes = dict(layer.axes)
    features = next(
        found for found, (op, variant) in _OPS.items() if (op, variant) == (layer.op, layer.variant)
    )
    latent = None
    if "latent attention" in features:
        latent = LatentAttention(
            q_lora_rank=axes["Q"],
            kv_lora_rank=axes["C"],
            qk_nope_head_dim=axes["N"],
            qk_rope_head_dim=axes["R"],
            v_head_dim=axes["V"],
        )
    experts = _experts_of(layer, features) if "E" in axes else None
    model = ModelSpec(
        name=layer.op,
        title=layer.id,
        num_layers=1,
        hidden=axes["H"],
        num_heads=axes["A"],
        num_kv_heads=axes.get("G", axes["A"]),
        head_dim=axes.get("D", axes.get("V", 0)),
        ffn=0 if experts is not None else axes["F"],
        vocab=1,
        is_embedding_tied=True,
        source="the sizes of the layer",
        latent_attention=latent,
        experts=experts,
        is_ffn_gated="a gated network" in features,
        has_bias="biases" in features,
        has_qk_norm="norms of heads" in features,
        num_learned_positions=1 if "learned positions" in features else 0,
    )
    return model, LayerKind.DENSE if experts is None else LayerKind.MOE


def _experts_of(layer: Problem, features: frozenset[str]) -> Experts:
    width = layer["F"]
    shared = layer["W"] if "a shared expert" in features else 0
    if shared % width:
        raise PlanError(
            f"{layer.op}: W={shared} is no multiple of the F={width} of an expert, and a shared "
            f"expert is as wide as one or several. Set W={max(1, round(shared / width)) * width}."
        )
    (routing,) = (name.split()[0] for name in features if name.endswith(" routing"))
    return Experts(
        num_experts=layer["E"],
        num_experts_per_token=layer["K"],
        expert_ffn=width,
        num_shared_experts=shared // width,
        routing=routing,
    )
