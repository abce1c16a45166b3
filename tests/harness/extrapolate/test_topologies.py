from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import load_cluster
from harness.extrapolate import topology
from harness.extrapolate.cluster import ClusterSpec, NetworkTier
from harness.extrapolate.collectives import (
    Span,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    placed,
    point_to_point_s,
)

H100 = load_cluster("h100_100k")
LINK = 45e9
"""One way over a link of a TPU v5e; 9e10 both ways (How to Scale Your Model, chapter 3)."""
V5P_POD = (16, 20, 28)
"""8,960 chips (Google Cloud, TPU v5p)."""


def torus(*dims: int, latency_s: float = 1e-9) -> ClusterSpec:
    tier = NetworkTier(
        name="ici",
        topology="torus",
        chips=int(np.prod(dims)),
        bandwidth_bytes_per_s_per_chip=2 * len(dims) * LINK,
        efficiency=1.0,
        latency_s=latency_s,
        dims=dims,
        half_size_bytes=0.0,
    )
    return replace(H100, num_chips=tier.chips, tiers=(tier,))


@pytest.mark.parametrize("name", topology.TOPOLOGIES)
@given(stride=st.integers(1, 64), members=st.integers(2, 512))
def test_every_topology_gives_positive_rates_and_steps(
    name: str, stride: int, members: int
) -> None:
    dims = (8, 8, 8) if name == "torus" else ()
    tier = replace(H100.tiers[1], topology=name, dims=dims, chips=512)
    shape = topology.load(name)
    assert shape.scattered_bandwidth(tier, stride, members) > 0
    assert shape.scattered_bandwidth(tier, stride, members) <= shape.neighbour_bandwidth(
        tier, stride, members
    ) * (1 + 1e-12)
    assert 1 <= shape.hops(tier, stride, members) <= shape.ring_steps(tier, stride, members) + 1


def test_an_axis_of_eight_takes_the_book_s_times() -> None:
    # bf16[2048, 8192] over 8 chips with 9e10 bytes/s both ways: 373 us gathered, 93.2 us exchanged.
    array = 2.0 * 2048 * 8192
    ring = placed(torus(8), (Span(1, 8),))
    base = all_gather_s(ring, 1e-9)
    assert all_gather_s(ring, array) - base == pytest.approx(7 / 8 * 373e-6, rel=0.01)
    assert all_reduce_s(ring, array) == pytest.approx(2 * 7 / 8 * 373e-6, rel=0.05)
    sent_by_each = array / 8
    exchanged = all_to_all_s(ring, sent_by_each) - all_to_all_s(ring, 1e-9)
    assert exchanged == pytest.approx(93.2e-6, rel=0.01)


def test_more_axes_gather_faster_in_proportion() -> None:
    # S/(k W): the same 16 chips' bytes over one, two and three axes of a pod.
    pod = torus(*V5P_POD)
    one = all_gather_s(placed(pod, (Span(1, 16),)), 1e10)
    two = all_gather_s(placed(pod, (Span(1, 320),)), 1e10)
    three = all_gather_s(placed(pod, (Span(1, 8960),)), 1e10)
    assert one / two == pytest.approx(2 * (15 / 16) / (319 / 320), rel=0.01)
    assert one / three == pytest.approx(3 * (15 / 16), rel=0.01)
    assert three == pytest.approx(1e10 / (6 * LINK), rel=0.01)


def test_a_pod_s_all_to_all_is_its_longest_axis() -> None:
    # n S/(4 W) with the 28 chips of the longest axis.
    exchanged = all_to_all_s(placed(torus(*V5P_POD), (Span(1, 8960),)), 1e10)
    assert exchanged == pytest.approx(28 * 1e10 / (4 * 2 * LINK), rel=0.02)


def test_a_part_of_an_axis_is_a_line_with_one_way_at_its_ends() -> None:
    pod = torus(16, 16)
    line = all_gather_s(placed(pod, (Span(1, 8),)), 1e9)
    ring = all_gather_s(placed(torus(8, 32), (Span(1, 8),)), 1e9)
    assert line == pytest.approx(2 * ring, rel=0.01)


def test_members_apart_on_an_axis_share_its_links() -> None:
    pod = torus(16, 16)
    beside = all_gather_s(placed(pod, (Span(16, 16),)), 1e9)
    apart = all_gather_s(placed(pod, (Span(32, 8),)), 1e9)
    assert apart == pytest.approx(2 * beside * (7 / 8) / (15 / 16), rel=0.01)


def test_a_ring_of_a_torus_has_half_as_many_steps_as_chips() -> None:
    pod = torus(16, 16)
    for members, steps in ((16, 8), (256, 16)):
        (level,) = placed(pod, (Span(1, members),)).levels
        assert level.ring_steps == steps


def test_the_next_chip_of_a_torus_is_one_link_away() -> None:
    pod = torus(*V5P_POD)
    assert point_to_point_s(pod, 1, 1e9) == pytest.approx(1e9 / LINK, rel=0.01)
    assert point_to_point_s(pod, 16, 1e9) == pytest.approx(1e9 / LINK, rel=0.01)


def test_two_chips_of_a_mesh_have_one_link_and_all_eight_have_all() -> None:
    tiers = (replace(H100.tiers[0], topology="full_mesh"), *H100.tiers[1:])
    mesh = replace(H100, tiers=tiers)
    pair, node = placed(mesh, (Span(1, 2),)), placed(mesh, (Span(1, 8),))
    assert all_gather_s(pair, 1e9) == pytest.approx(0.5e9 / (360e9 / 7), rel=0.01)
    assert all_gather_s(node, 1e10) == pytest.approx(
        all_gather_s(placed(H100, (Span(1, 8),)), 1e10)
    )


def test_oversubscription_divides_what_passes_the_switches() -> None:
    core = H100.tiers[2]
    shape = topology.load("fat_tree")
    assert core.oversubscription == 7
    assert shape.neighbour_bandwidth(core, 1, 8) == pytest.approx(46e9 / 7)
    hashed = replace(core, scattered_efficiency=0.8)
    assert shape.scattered_bandwidth(hashed, 1, 8) == pytest.approx(0.8 * 46e9 / 7)
