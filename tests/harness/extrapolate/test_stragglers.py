import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import list_names, load_cluster
from harness.extrapolate.cluster import Stragglers
from harness.extrapolate.constants import PRIOR
from harness.extrapolate.stragglers import (
    barrier_excess,
    expected_maximum,
    slowest_chip_excess,
    straggler_share,
)

FOUND = load_cluster("h100_100k").stragglers
assert FOUND is not None
PACKAGED: Stragglers = FOUND


# Exact at 8 (Harter 1961); beyond, the asymptotic form to its own error.
@pytest.mark.parametrize(
    ("count", "maximum"), [(2, 0.564), (8, 1.4236), (64, 2.40), (1024, 3.28), (100_000, 4.40)]
)
def test_the_expected_maximum_is_that_of_the_tables(count: int, maximum: float) -> None:
    assert expected_maximum(count) == pytest.approx(maximum, rel=0.05 if count == 2 else 0.03)


def test_the_slowest_chip_is_what_drawing_them_gives() -> None:
    generator = np.random.default_rng(0)
    drawn = generator.normal(0, 0.02, (4000, 512))
    assert slowest_chip_excess(512, 0.02, 1.0) == pytest.approx(
        float(drawn.max(axis=1).mean()), rel=0.01
    )
    kept = np.where(drawn < 0.05, drawn, -1.0)
    assert slowest_chip_excess(512, 0.02, 0.05) == pytest.approx(
        float(kept.max(axis=1).mean()), rel=0.02
    )


@given(st.integers(1, 10**6), st.floats(0, 0.2), st.floats(0.001, 0.2))
def test_no_chip_that_is_kept_is_beyond_the_threshold(
    chips: int, spread: float, screening: float
) -> None:
    excess = slowest_chip_excess(chips, spread, screening)
    assert 0 <= excess <= screening
    assert excess <= slowest_chip_excess(chips * 2, spread, screening) + 1e-12


def test_screening_helps() -> None:
    assert slowest_chip_excess(10_000, 0.05, 0.05) < 0.4 * slowest_chip_excess(10_000, 0.05, 1.0)


def test_rounds_between_barriers_average_out() -> None:
    assert barrier_excess(64, 0.02, rounds=16) == pytest.approx(barrier_excess(64, 0.02) / 4)
    assert barrier_excess(1, 0.02) == 0


def test_a_single_domain_loses_nothing_more_than_was_timed() -> None:
    assert straggler_share(PACKAGED, 8, 8) == 0
    assert straggler_share(PACKAGED, 4, 8) == 0


@pytest.mark.parametrize("name", [n for n in list_names("cluster") if n.startswith(("h", "gb"))])
def test_the_spread_of_the_files_is_covered_by_the_measured_growth(name: str) -> None:
    cluster = load_cluster(name)
    assert cluster.stragglers is not None
    domain = cluster.tiers[0].chips
    for doublings in range(1, 14):
        measured = PRIOR.growth_per_doubling * doublings
        assert straggler_share(cluster.stragglers, domain * 2**doublings, domain) <= measured


def test_the_spread_of_the_files_is_most_of_the_measured_growth() -> None:
    # 0.5 % per doubling from 8 to 2,304 chips in NVIDIA/dgxc-benchmarking; the rest is network.
    doublings = math.log2(2304 / 8)
    assert 0.003 < straggler_share(PACKAGED, 2304, 8) / doublings < PRIOR.growth_per_doubling


def test_chips_that_differ_more_cost_more() -> None:
    wide = dataclasses.replace(PACKAGED, chip_spread=0.03)
    assert straggler_share(wide, 100_000, 8) > 1.3 * straggler_share(PACKAGED, 100_000, 8)
