import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from harness.config.specs import load_cluster
from harness.errors import ConfigError
from harness.extrapolate import collectives
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.collective_fit import MeasuredCollective, Operation, fit
from harness.extrapolate.collectives import Span, placed
from tests.harness.extrapolate.simai import SIMAI_BYTES, SIMAI_SHARES, simai_seconds

GUESS = load_cluster("h100_16k")
TRUE = replace(
    GUESS,
    tiers=tuple(
        replace(tier, latency_s=tier.latency_s * late, efficiency=tier.efficiency * rate)
        for tier, late, rate in zip(GUESS.tiers, (2.0, 0.6, 1.0), (0.85, 0.9, 1.0), strict=True)
    ),
)
SIZES = tuple(float(4**exponent) for exponent in range(6, 17))


def sample(
    operation: Operation, num_chips: int, num_bytes: float, *, stride: int = 1, factor: float = 1.0
) -> MeasuredCollective:
    seconds = getattr(collectives, f"{operation}_s")
    group = placed(TRUE, (Span(stride, num_chips),))
    return MeasuredCollective(
        operation=operation,
        num_chips=num_chips,
        stride=stride,
        num_bytes=num_bytes,
        seconds=seconds(group, num_bytes) * factor,
    )


def samples(noise: float) -> list[MeasuredCollective]:
    """All-gathers and all-reduces within a node and over one chip each of several nodes."""
    rng = np.random.default_rng(5)
    operations = (Operation.ALL_GATHER, Operation.ALL_REDUCE)
    groups = ((2, 1), (8, 1), (4, 8), (32, 8))
    return [
        sample(operation, n, size, stride=stride, factor=float(np.exp(rng.normal(0, noise))))
        for operation, (n, stride), size in product(operations, groups, SIZES)
    ]


def ratios(found: ClusterSpec, truth: ClusterSpec = TRUE) -> list[float]:
    pairs = list(zip(found.tiers, truth.tiers, strict=True))
    return [a.latency_s / b.latency_s for a, b in pairs] + [
        a.achieved_bytes_per_s_per_chip / b.achieved_bytes_per_s_per_chip for a, b in pairs
    ]


def test_known_constants_are_found_again() -> None:
    found = fit(samples(noise=0.0), GUESS)
    assert ratios(found.cluster) == pytest.approx([1.0] * 6, rel=1e-3)
    assert found.mape < 1e-3


def test_known_constants_are_found_in_noise_and_the_spread_is_its() -> None:
    found = fit(samples(noise=0.05), GUESS)
    assert ratios(found.cluster) == pytest.approx([1.0] * 6, rel=0.06)
    assert found.spread == pytest.approx(np.exp(1.645 * 0.05), rel=0.03)
    assert len(found.residuals) == 88


def test_a_tier_that_no_sample_crosses_keeps_its_constants() -> None:
    found = fit(samples(noise=0.05), GUESS)
    core = found.tiers[2]
    assert (core.name, core.is_latency_seen, core.is_bandwidth_seen) == ("core", False, False)
    assert found.cluster.tiers[2].latency_s == pytest.approx(GUESS.tiers[2].latency_s)
    assert all(tier.is_latency_seen and tier.is_bandwidth_seen for tier in found.tiers[:2])


def test_large_messages_alone_show_bandwidth_and_few_of_them_suffice() -> None:
    measured = [sample(Operation.ALL_GATHER, 8, 1e11), sample(Operation.ALL_TO_ALL, 8, 1e11)]
    found = fit(measured, GUESS)
    assert ratios(found.cluster)[3] == pytest.approx(1.0, rel=0.01)


def test_published_all_reduces_give_the_published_constants() -> None:
    """SimAI's table: 4.3 to 6.1 us per step of a ring, 364 to 398 GB/s per node of 8 ports."""
    node = replace(
        GUESS.tiers[1],
        bandwidth_bytes_per_s_per_chip=400e9,
        chips=1024,
        half_size_bytes=0.0,
        algorithms=("ring",),
    )
    measured = [
        MeasuredCollective(
            operation=Operation.RING_ALL_REDUCE,
            num_chips=num_chips,
            num_bytes=num_bytes,
            seconds=simai_seconds(num_chips, num_bytes, share),
        )
        for num_chips, shares in SIMAI_SHARES.items()
        for num_bytes, share in zip(SIMAI_BYTES, shares, strict=True)
    ]
    found = fit(measured, replace(GUESS, num_chips=1024, tiers=(node,)))
    assert 4.3e-6 < found.tiers[0].latency_s < 6.1e-6
    assert 364e9 < found.tiers[0].bytes_per_s_per_chip < 398e9
    assert found.mape < 0.08
    assert 1.15 < found.spread < 1.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_chips": 1}, "collectives[0].num_chips: 1 is not between 2 and the 24576 chips"),
        ({"num_bytes": 0.0}, "collectives[0].num_bytes: 0.0 is not a finite number greater than 0"),
        ({"seconds": float("nan")}, "collectives[0].seconds: nan is not a finite number"),
    ],
)
def test_a_sample_that_cannot_be_one_is_named(changes: dict[str, float], message: str) -> None:
    good = sample(Operation.ALL_GATHER, 8, 1e6)
    bad = MeasuredCollective(
        operation=good.operation,
        num_chips=int(changes.get("num_chips", good.num_chips)),
        num_bytes=changes.get("num_bytes", good.num_bytes),
        seconds=changes.get("seconds", good.seconds),
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        fit([bad], GUESS)


def test_nothing_measured_is_nothing_to_fit() -> None:
    with pytest.raises(ConfigError, match="none was measured"):
        fit([], GUESS)
