import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_cluster
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collectives import (
    Group,
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    direct_all_to_all_s,
    flat_ring_s,
    hierarchical_all_reduce_s,
    hierarchical_s,
    pipelined_s,
    placed,
    point_to_point_s,
    reduce_scatter_s,
    ring_all_reduce_s,
    staged_all_to_all_s,
    streamed_all_reduce_s,
)
from harness.extrapolate.priors import COLLECTIVE_BASE_S, PER_PEER_S
from tests.harness.extrapolate.simai import SIMAI_BYTES, SIMAI_SHARES, simai_seconds

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


# Those of the first version of this model, written anew without its code: one protocol whose step
# is the tier's latency, ring and halving, no oversubscription.
PLAIN = replace(
    H100,
    tiers=tuple(
        replace(tier, half_size_bytes=0.0, algorithms=("ring", "halving"), oversubscription=1.0)
        for tier in H100.tiers
    ),
)


def plain_levels(span: Span) -> list[tuple[int, float, float]]:
    """Members, latency and rate of each tier at which a span has several members."""
    found, left, stride = [], int(span.size), int(span.stride)
    for tier in PLAIN.tiers:
        room = left if tier is PLAIN.tiers[-1] else min(left, tier.chips // stride)
        if room > 1:
            rate = tier.bandwidth_bytes_per_s_per_chip * tier.efficiency
            found.append((room, tier.latency_s, rate))
            left, stride = math.ceil(left / room), stride * room
    return found


def plain_flat_ring_s(span: Span, num_bytes: float) -> float:
    levels = plain_levels(span)
    n = math.prod(size for size, _, _ in levels)
    latency, below, slowest = 0.0, 1, math.inf
    for size, step, rate in levels:
        latency += (size - 1) * (n // below // size) * step
        slowest = min(slowest, rate * below)
        below *= size
    return COLLECTIVE_BASE_S.value + latency + (n - 1) / n * num_bytes / slowest


def plain_hierarchical_s(span: Span, num_bytes: float) -> float:
    total, left = COLLECTIVE_BASE_S.value, num_bytes
    for size, step, rate in plain_levels(span):
        sent = (size - 1) / size * left / rate
        total += min((size - 1) * step, math.ceil(math.log2(size)) * step) + sent
        left /= size
    return total


def plain_all_to_all_s(span: Span, num_bytes: float) -> float:
    levels = plain_levels(span)
    n = math.prod(size for size, _, _ in levels)
    longest, below = 0.0, 1
    for size, _, rate in levels:
        longest = max(longest, num_bytes * (n - below) / n / rate)
        below *= size
    return COLLECTIVE_BASE_S.value + levels[-1][1] + (n - 1) * PER_PEER_S.value + longest


@given(SPANS.filter(lambda span: span.size > 1), SIZES)
def test_the_plain_algorithms_are_their_formulas(span: Span, num_bytes: float) -> None:
    group = group_of(span, cluster=PLAIN)
    flat, tiered = plain_flat_ring_s(span, num_bytes), plain_hierarchical_s(span, num_bytes)
    direct = plain_all_to_all_s(span, num_bytes)
    assert flat_ring_s(group, num_bytes) == pytest.approx(flat, rel=1e-12)
    assert hierarchical_s(group, num_bytes) == pytest.approx(tiered, rel=1e-12)
    assert direct_all_to_all_s(group, num_bytes) == pytest.approx(direct, rel=1e-12)
    expected = min(flat, tiered)
    if len(group.levels) > 1:
        expected = min(expected, pipelined_s(group, num_bytes))
    assert reduce_scatter_s(group, num_bytes) == pytest.approx(expected, rel=1e-12)


# Arrays.

COLLECTIVES = (
    flat_ring_s,
    hierarchical_s,
    pipelined_s,
    reduce_scatter_s,
    all_gather_s,
    ring_all_reduce_s,
    hierarchical_all_reduce_s,
    streamed_all_reduce_s,
    all_reduce_s,
    direct_all_to_all_s,
    staged_all_to_all_s,
    all_to_all_s,
)
TORUS = replace(
    H100,
    tiers=(
        replace(H100.tiers[0], topology="torus", dims=(4, 4, 4), chips=64),
        replace(H100.tiers[1], chips=3072, ports_per_chip=0.5, scattered_efficiency=0.8),
        replace(H100.tiers[2], half_size_bytes=1e5, in_network_efficiency=0.9),
    ),
)
SWITCHED = replace(
    H100,
    tiers=tuple(
        replace(tier, in_network_efficiency=0.85, algorithms=("ring", "halving", "tree", "pat"))
        for tier in H100.tiers
    ),
)
HASHED = replace(
    H100,
    tiers=(H100.tiers[0], *(replace(t, scattered_efficiency=0.75) for t in H100.tiers[1:])),
)
MESH = replace(H100, tiers=(replace(H100.tiers[0], topology="full_mesh"), *H100.tiers[1:]))
SEVERAL = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 4, 8, 64]),
        st.integers(1, 40),
        st.sampled_from([1, 2, 16]),
        st.integers(1, 700),
        SIZES | st.just(0.0),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("cluster", [H100, PLAIN, TORUS, SWITCHED, MESH])
@settings(max_examples=25)
@given(rows=SEVERAL)
def test_arrays_hold_what_numbers_give(
    cluster: ClusterSpec, rows: list[tuple[int, int, int, int, float]]
) -> None:
    stride, inner, gap, outer = (np.array([row[i] for row in rows]) for i in range(4))
    num_bytes = np.array([row[4] for row in rows])
    far = stride * inner * gap
    groups = placed(cluster, (Span(stride, inner), Span(far, outer)))
    for collective in COLLECTIVES:
        found = collective(groups, num_bytes)
        expected = [
            collective(placed(cluster, (Span(s, i), Span(s * i * g, o))), size)
            for s, i, g, o, size in rows
        ]
        assert found.shape == num_bytes.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(
        point_to_point_s(cluster, far, num_bytes),
        [point_to_point_s(cluster, int(f), size) for f, size in zip(far, num_bytes, strict=True)],
        rtol=1e-12,
    )


def test_numbers_give_a_number_and_either_array_an_array() -> None:
    one, many = group_of(Span(1, 64)), group_of(Span(1, np.array([1, 8, 64])))
    sizes = np.array([0.0, 1e6, 1e9])
    for collective in COLLECTIVES:
        assert type(collective(one, 1e6)) is float
        assert collective(one, sizes).shape == (3,)
        assert np.asarray(collective(many, 1e6)).shape == (3,)
        assert collective(many, np.ones((2, 1))).shape == (2, 3)
        assert type(collective(group_of(Span(1, 1)), 1e6)) is float
        assert not np.any(collective(group_of(Span(1, np.ones(3, int))), sizes[:, None]))
        assert np.shape(collective(group_of(Span(1, np.ones(3, int))), 1e6)) == (3,)
    assert type(point_to_point_s(H100, 8, 1e6)) is float


def test_spans_within_one_tier_are_one_level() -> None:
    group = group_of(Span(1, 2), Span(2, 4), Span(64, 16))
    assert [(level.tier.name, level.size) for level in group.levels] == [("nvlink", 8), ("pod", 16)]


# Properties.


@pytest.mark.parametrize("cluster", [H100, PLAIN, HASHED])
@given(stride=st.sampled_from([1, 8, 64]), sizes=st.tuples(*[st.integers(1, 1500)] * 2), size=SIZES)
def test_time_grows_with_the_members(
    cluster: ClusterSpec, stride: int, sizes: tuple[int, int], size: float
) -> None:
    fewer, more = (placed(cluster, (Span(stride, n),)) for n in sorted(sizes))
    for collective in (reduce_scatter_s, all_reduce_s, all_to_all_s):
        assert collective(fewer, size) <= collective(more, size) * (1 + 1e-12)


@pytest.mark.parametrize("cluster", [H100, TORUS, SWITCHED, MESH])
@given(span=SPANS, num_bytes=SIZES)
def test_the_fastest_is_no_slower_than_any_algorithm(
    cluster: ClusterSpec, span: Span, num_bytes: float
) -> None:
    group = group_of(span, cluster=cluster)
    parts = (flat_ring_s(group, num_bytes), hierarchical_s(group, num_bytes))
    assert reduce_scatter_s(group, num_bytes) <= min(parts)
    assert all_reduce_s(group, num_bytes) <= ring_all_reduce_s(group, num_bytes)
    assert all_reduce_s(group, num_bytes) <= streamed_all_reduce_s(group, num_bytes)
    assert all_to_all_s(group, num_bytes) <= direct_all_to_all_s(group, num_bytes)


@given(st.integers(2, 700), SIZES)
def test_a_group_of_one_chip_per_node_is_bound_by_its_port(members: int, num_bytes: float) -> None:
    group = group_of(Span(8, members))
    least = (members - 1) / members * num_bytes / 46e9
    assert reduce_scatter_s(group, num_bytes) >= least
    assert all_reduce_s(group, num_bytes) >= 2 * least
    assert all_to_all_s(group, num_bytes) >= least


# Published figures.

TWO_TIERS = replace(
    H100,
    num_chips=102_400,
    tiers=(
        replace(PLAIN.tiers[0], bandwidth_bytes_per_s_per_chip=360e9, efficiency=1.0),
        replace(
            PLAIN.tiers[1],
            chips=102_400,
            bandwidth_bytes_per_s_per_chip=46e9,
            efficiency=1.0,
        ),
    ),
)
BASE_S = COLLECTIVE_BASE_S.value


def with_algorithms(cluster: ClusterSpec, *algorithms: str) -> ClusterSpec:
    return replace(
        cluster, tiers=tuple(replace(tier, algorithms=algorithms) for tier in cluster.tiers)
    )


@pytest.mark.parametrize(
    ("num_bytes", "num_chips", "flat_ms", "ring_ms", "tree_ms"),
    [
        (1e6, 1024, 9.45, 1.2, 0.14),
        (1e6, 8192, 75, 9.4, 0.19),
        (1e6, 102_400, 942, 118, 0.25),
        (64e6, 1024, 12, 1.9, 0.85),
        (64e6, 8192, 78, 10, 0.90),
        (64e6, 102_400, 945, 118, 0.96),
        (1e9, 1024, 49, 11.4, 11.4),
        (1e9, 8192, 115, 19.7, 11.4),
        (1e9, 102_400, 982, 128, 11.5),
        (10e9, 1024, 409, 104, 113),
        (10e9, 8192, 475, 112, 113),
        (10e9, 102_400, 1342, 221, 113),
    ],
)
def test_all_reduces_up_to_100_000_chips_are_those_of_the_hand_calculation(
    num_bytes: float, num_chips: int, flat_ms: float, ring_ms: float, tree_ms: float
) -> None:
    network = replace(TWO_TIERS.tiers[1], bandwidth_bytes_per_s_per_chip=50e9)
    single = placed(replace(TWO_TIERS, tiers=(network,)), (Span(1, num_chips),))
    assert ring_all_reduce_s(single, num_bytes) - 2 * BASE_S == pytest.approx(
        flat_ms / 1e3, rel=0.03
    )
    ring = placed(with_algorithms(TWO_TIERS, "ring"), (Span(1, num_chips),))
    tiered_s = 2 * (hierarchical_s(ring, num_bytes) - BASE_S)
    assert tiered_s == pytest.approx(ring_ms / 1e3, rel=0.03)
    trees = placed(with_algorithms(TWO_TIERS, "ring", "tree"), (Span(1, num_chips),))
    fastest_s = hierarchical_all_reduce_s(trees, num_bytes) - BASE_S
    assert fastest_s == pytest.approx(min(ring_ms, tree_ms) / 1e3, rel=0.03, abs=5e-6)


def test_rings_take_as_long_as_measured_over_16_to_1024_chips() -> None:
    """All-reduces of nodes of 8 with 400 Gbit/s each (SimAI, astra-sim-alibabacloud)."""
    cluster = load_cluster("h100_16k")
    logs = []
    for num_chips, shares in SIMAI_SHARES.items():
        group = placed(cluster, (Span(1, num_chips),))
        for num_bytes, share in zip(SIMAI_BYTES, shares, strict=True):
            measured_s = simai_seconds(num_chips, num_bytes, share)
            logs.append(math.log(ring_all_reduce_s(group, num_bytes) / measured_s))
    assert len(logs) == 77
    assert max(map(abs, logs)) < math.log(1.4)
    assert sum(map(abs, logs)) / len(logs) < 0.105


# Switches, protocols, ports, flows.


def test_switches_that_reduce_make_all_reduces_cheaper_and_nothing_else_slower() -> None:
    for span in (Span(1, 8), Span(8, 64), Span(1, 512)):
        plain, switched = group_of(span), group_of(span, cluster=SWITCHED)
        for num_bytes in (1e5, 1e7, 1e9):
            assert reduce_scatter_s(switched, num_bytes) <= reduce_scatter_s(plain, num_bytes)
        assert all_reduce_s(switched, 1e9) < 0.8 * all_reduce_s(plain, 1e9)


@pytest.mark.parametrize(
    ("members", "gb_per_s"), [(2, 368), (3, 368), (4, 368), (5, 420), (6, 440), (7, 460), (8, 480)]
)
def test_chips_reduce_through_their_switch_at_the_measured_bus_bandwidth(
    members: int, gb_per_s: float
) -> None:
    """H100 with NVLS, by nccl-tests (NVIDIA/nccl issue 1455): 2 (n - 1)/n S/t."""
    seconds = all_reduce_s(group_of(Span(1, members), cluster=SWITCHED), 8e9)
    reached = 2 * (members - 1) / members * 8e9 / seconds / 1e9
    assert reached == pytest.approx(gb_per_s, rel=0.03)


def test_small_messages_take_flags_and_large_ones_the_whole_rate() -> None:
    pair = group_of(Span(8, 2))
    small = reduce_scatter_s(pair, 8.0)
    assert small == pytest.approx(6.6e-6 + 4.6e-6 * 2.7 / 4, rel=1e-3)
    assert reduce_scatter_s(pair, 1e9) == pytest.approx(0.5e9 / 46e9, rel=0.01)
    middle = reduce_scatter_s(pair, 1e6)
    assert middle > 0.5e6 / 46e9 / 0.6


def test_a_message_of_the_half_size_reaches_half_the_rate() -> None:
    tier = replace(H100.tiers[1], half_size_bytes=1e6, latency_s=1e-12)
    pair = placed(replace(H100, tiers=(tier,)), (Span(1, 2),))
    seconds = flat_ring_s(pair, 2e6) - BASE_S
    assert 1e6 / seconds == pytest.approx(46e9 / 2, rel=1e-3)


def test_a_ring_whose_every_hop_leaves_the_pod_sees_its_oversubscription() -> None:
    inside, across = group_of(Span(512, 4)), group_of(Span(3072, 4))
    assert reduce_scatter_s(across, 1e10) == pytest.approx(
        7 * reduce_scatter_s(inside, 1e10), rel=0.01
    )
    assert point_to_point_s(H100, 3072, 1e9) > 6.9 * point_to_point_s(H100, 8, 1e9)


def test_a_group_on_one_rail_takes_as_long_whichever_nodes_it_skips() -> None:
    near, far = group_of(Span(8, 32)), group_of(Span(64, 32))
    assert reduce_scatter_s(near, 1e9) == reduce_scatter_s(far, 1e9)
    assert reduce_scatter_s(near, 1e9) > 5 * reduce_scatter_s(group_of(Span(1, 256)), 1e9)


def test_flows_that_are_hashed_onto_links_slow_all_to_alls_and_no_ring() -> None:
    plain, slowed = (placed(c, (Span(8, 64),)) for c in (H100, HASHED))
    assert all_to_all_s(slowed, 1e10) == pytest.approx(all_to_all_s(plain, 1e10) / 0.75, rel=0.01)
    assert flat_ring_s(slowed, 1e10) == flat_ring_s(plain, 1e10)


def test_small_all_to_alls_over_many_nodes_go_by_two_hops() -> None:
    group = group_of(Span(1, 512))
    # 7 + 63 peers instead of 511.
    assert all_to_all_s(group, 1e6) == staged_all_to_all_s(group, 1e6)
    assert all_to_all_s(group, 1e6) < direct_all_to_all_s(group, 1e6) / 2
    assert all_to_all_s(group, 1e10) == direct_all_to_all_s(group, 1e10)


def test_chips_that_share_a_port_wait_for_each_other_s_set_up() -> None:
    shared = replace(
        H100, tiers=(H100.tiers[0], *(replace(t, ports_per_chip=0.5) for t in H100.tiers[1:]))
    )
    own, half = (direct_all_to_all_s(placed(c, (Span(8, 101),)), 1.0) for c in (H100, shared))
    assert half - own == pytest.approx(100 * PER_PEER_S.value)


def test_few_steps_spare_small_messages_the_latency_of_a_thousand_nodes() -> None:
    rings = with_algorithms(H100, "ring")
    far = Span(8, 1024)
    ring, pat = (reduce_scatter_s(placed(c, (far,)), 1e6) for c in (rings, H100))
    assert pat < ring / 3
    ring, pat = (reduce_scatter_s(placed(c, (far,)), 1e11) for c in (rings, H100))
    assert pat == ring


def test_a_tree_spares_an_all_reduce_the_latency_of_a_thousand_nodes() -> None:
    rings, trees = with_algorithms(H100, "ring"), with_algorithms(H100, "ring", "tree")
    ring, tree = (all_reduce_s(placed(c, (Span(1, 3072),)), 1e6) for c in (rings, trees))
    assert tree < ring / 3


def test_tiers_that_work_at_once_take_little_longer_than_the_slower_one() -> None:
    group = group_of(Span(1, 64))
    inner_s, outer_s = 7 / 8 * 1e11 / 360e9, 7 / 8 * 1e11 / 8 / 46e9
    expected = max(inner_s, outer_s) + min(inner_s, outer_s) / 8
    assert pipelined_s(group, 1e11) == pytest.approx(expected, rel=0.01)
    assert hierarchical_s(group, 1e11) == pytest.approx(inner_s + outer_s, rel=0.01)
