"""What the chips of a replica send in one pass, in seconds of latency and of bandwidth.

    tensor    an all-reduce after attention and one after a dense network or shared experts
    expert    to the experts and back: K copies of a token, sent straight to each chip; of many
              tokens one copy per node, handed on inside it, where that is faster
    pipeline  the residual stream to the next stage
    cache     keys and values of a prompt, from the chips that read it to those that decode

Source: DeepEP (github.com/deepseek-ai/DeepEP docs/legacy.md), whose low-latency kernels send
straight and whose normal kernels hand on; node-limited routing of DeepSeek-V3 (arXiv 2412.19437)
section 2.1.2.
"""

from typing import NamedTuple

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Group,
    Span,
    all_reduce_s,
    all_to_all_s,
    placed,
    point_to_point_s,
)
from harness.extrapolate.serving.memory import (
    SIZE_BYTES,
    cache_bytes_per_token,
    cache_shares,
)
from harness.extrapolate.serving.priors import ROUTED_NODES
from harness.extrapolate.serving.spec import ServingSpec
from harness.serving_projection import ReplicaPlan
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind

SCALE_BYTES = 4 / 128
"""One fp32 scale for 128 values of 8 bits, as DeepEP sends them."""
STRAIGHT_TOKENS = 256
"""Tokens of a chip up to which they are sent straight to their experts: DeepEP recommends its
low-latency kernels for fewer than that."""
LEAST_BYTES = 1.0
"""A message so small that its time is all latency."""


class Sent(NamedTuple):
    """Seconds of one exchange, or of several, by cause."""

    latency: float = 0.0
    bandwidth: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.latency + self.bandwidth


def _split(whole: float, empty: float) -> Sent:
    return Sent(min(whole, empty), max(0.0, whole - empty))


def tensor_exchange(
    model: ModelSpec,
    cluster: ClusterSpec,
    plan: ReplicaPlan,
    spec: ServingSpec,
    kind: LayerKind,
    num_tokens: int,
) -> Sent:
    """The all-reduces of a layer for so many tokens of an attention group.

    Source: Shoeybi et al., Megatron-LM (arXiv 1909.08053) section 3.
    """
    if plan.tensor == 1:
        return Sent()
    experts = model.experts
    has_second = kind is LayerKind.DENSE or (experts is not None and experts.num_shared_experts)
    group = placed(cluster, (Span(1, plan.tensor),))
    num_bytes = float(num_tokens * model.hidden * SIZE_BYTES[spec.dtype])
    once = _split(all_reduce_s(group, num_bytes), all_reduce_s(group, LEAST_BYTES))
    count = 2 if has_second else 1
    return Sent(count * once.latency, count * once.bandwidth)


def nodes_reached(num_nodes: int, top_k: int, is_limited: bool) -> float:
    """Nodes that the experts of one token are on, expected: n (1 - (1 - 1/n)^K), limited or not."""
    expected = num_nodes * (1 - (1 - 1 / num_nodes) ** top_k)
    return min(expected, ROUTED_NODES) if is_limited else expected


def one_way_s(
    model: ModelSpec, cluster: ClusterSpec, num_chips: int, num_tokens: float, token_bytes: float
) -> float:
    """So many tokens of each chip, sent to their experts on `num_chips` chips."""
    experts = model.experts
    assert experts is not None
    top_k = experts.num_experts_per_token
    group = placed(cluster, (Span(1, num_chips),))
    straight = all_to_all_s(group, num_tokens * top_k * token_bytes)
    if len(group.levels) < 2 or num_tokens <= STRAIGHT_TOKENS:
        return straight
    node = group.levels[0]
    copies = nodes_reached(
        -(-num_chips // int(node.size)), top_k, experts.routing == "sigmoid_groups"
    )
    # One copy for each node, through the ports; then one for each expert, inside the node.
    far = all_to_all_s(group, num_tokens * copies * token_bytes)
    near = all_to_all_s(Group((node,)), num_tokens * top_k * token_bytes)
    handed_on = max(far, near) + min(far, near, all_to_all_s(Group((node,)), LEAST_BYTES))
    return min(straight, handed_on)


def expert_exchange(
    model: ModelSpec, cluster: ClusterSpec, plan: ReplicaPlan, spec: ServingSpec, num_tokens: int
) -> Sent:
    """Dispatch and combine of a layer; each chip of a tensor group sends its part of the tokens."""
    if plan.expert == 1 or model.experts is None:
        return Sent()
    own = num_tokens / plan.tensor
    latency = bandwidth = 0.0
    narrow = SIZE_BYTES[spec.dispatch_dtype]
    there = narrow + (SCALE_BYTES if narrow == 1 else 0.0)
    for size in (there, float(SIZE_BYTES[spec.dtype])):
        whole = one_way_s(model, cluster, plan.expert, own, model.hidden * size)
        empty = one_way_s(model, cluster, plan.expert, LEAST_BYTES, 1.0 / model.hidden)
        sent = _split(whole, empty)
        latency, bandwidth = latency + sent.latency, bandwidth + sent.bandwidth
    return Sent(latency, bandwidth)


def stage_exchange(
    model: ModelSpec, cluster: ClusterSpec, plan: ReplicaPlan, spec: ServingSpec, num_tokens: int
) -> Sent:
    """The hidden states of so many tokens to the next stage, cut among the tensor group."""
    if plan.pipeline == 1:
        return Sent()
    stride = max(plan.tensor, plan.expert)
    num_bytes = num_tokens * model.hidden * SIZE_BYTES[spec.dtype] / plan.tensor
    whole = point_to_point_s(cluster, stride, float(num_bytes))
    return _split(whole, point_to_point_s(cluster, stride, LEAST_BYTES))


def cache_transfer_s(
    model: ModelSpec, cluster: ClusterSpec, plan: ReplicaPlan, spec: ServingSpec
) -> float:
    """The cache of one prompt to another replica: each chip sends what it holds of it.

    Nothing of it is taken to hide behind the prefill of later layers.
    """
    per_token = cache_bytes_per_token(model, spec.cache_dtype or spec.dtype)
    senders = cache_shares(model, plan.tensor) * plan.pipeline
    num_bytes = spec.input_tokens * per_token / senders
    return point_to_point_s(cluster, plan.num_chips, num_bytes)
