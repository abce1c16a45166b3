import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import load_cluster
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Group,
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    flat_ring_s,
    hierarchical_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
    ring_all_reduce_s,
)
from harness.extrapolate.priors import COLLECTIVE_BASE_S

H100 = load_cluster("h100_100k")
SIZES = st.floats(1.0, 1e11)
SPANS = st.builds(Span, st.sampled_from([1, 8, 64, 128]), st.integers(1, 700))


def group_of(*spans: Span, cluster: ClusterSpec = H100) -> Group:
    return placed(cluster, spans)


@given(SPANS, SIZES)
def test_ring_all_reduce_is_reduce_scatter_and_all_gather(span: Span, num_bytes: float) -> None:
    group = group_of(span)
    assert ring_all_reduce_s(group, num_bytes) == pytest.approx(2 * flat_ring_s(group, num_bytes))
    both = reduce_scatter_s(group, num_bytes) + all_gather_s(group, num_bytes)
    assert all_reduce_s(group, num_bytes) <= both


@given(SPANS, SIZES, SIZES)
def test_time_grows_with_bytes(span: Span, one: float, other: float) -> None:
    group = group_of(span)
    less, more = sorted((one, other))
    assert reduce_scatter_s(group, less) <= reduce_scatter_s(group, more)
    assert all_to_all_s(group, less) <= all_to_all_s(group, more)
    assert point_to_point_s(H100, span.stride, less) <= point_to_point_s(H100, span.stride, more)


@given(SIZES)
def test_one_chip_does_not_communicate(num_bytes: float) -> None:
    group = group_of(Span(1, 1))
    assert group.size == 1
    assert all_reduce_s(group, num_bytes) == 0
    assert all_to_all_s(group, num_bytes) == 0


@given(SPANS, SIZES)
def test_no_algorithm_beats_the_port_of_a_chip(span: Span, num_bytes: float) -> None:
    group = group_of(span)
    fastest = max(tier.bandwidth_bytes_per_s_per_chip for tier in H100.tiers)
    least = (group.size - 1) / group.size * num_bytes / fastest
    assert reduce_scatter_s(group, num_bytes) >= least * (1 - 1e-9)


def test_a_group_inside_a_node_uses_only_its_links() -> None:
    group = group_of(Span(1, 8))
    assert [level.tier.name for level in group.levels] == ["nvlink"]


def test_a_group_with_one_member_per_node_uses_only_the_network() -> None:
    group = group_of(Span(8, 16))
    assert [level.tier.name for level in group.levels] == ["pod"]


def test_a_group_over_everything_meets_at_every_tier() -> None:
    group = group_of(Span(1, 12288))
    assert [(level.tier.name, level.size) for level in group.levels] == [
        ("nvlink", 8),
        ("pod", 384),
        ("core", 4),
    ]
    assert group.size == 12288


def test_gigabytes_over_a_node_take_the_ring_s_time() -> None:
    # (n - 1)/n S/W: 7/8 of 10 GB over 360 GB/s, and little latency.
    assert flat_ring_s(group_of(Span(1, 8)), 1e10) == pytest.approx(7 / 8 * 1e10 / 360e9, rel=0.01)


def test_small_messages_over_many_chips_do_not_pay_a_flat_ring() -> None:
    group = group_of(Span(1, 98304))
    assert reduce_scatter_s(group, 1e6) < flat_ring_s(group, 1e6) / 100
    assert reduce_scatter_s(group, 1e6) == hierarchical_s(group, 1e6)


def test_members_of_a_node_share_the_work_of_its_ports() -> None:
    one_per_node = reduce_scatter_s(group_of(Span(8, 64)), 8e9)
    eight_per_node = reduce_scatter_s(group_of(Span(1, 512)), 8e9)
    assert eight_per_node < one_per_node / 3


def test_all_to_all_sees_oversubscription_and_a_ring_does_not() -> None:
    wide = group_of(Span(1, 12288))
    pod = group_of(Span(1, 3072))
    assert all_to_all_s(wide, 1e9) > 3 * all_to_all_s(pod, 1e9)
    assert flat_ring_s(wide, 1e12) == pytest.approx(flat_ring_s(pod, 1e12), rel=0.1)


def test_a_message_pays_latency_and_the_port() -> None:
    seconds = point_to_point_s(H100, 8, 46e6)
    assert seconds == pytest.approx(COLLECTIVE_BASE_S.value + 4.6e-6 + 1e-3)
