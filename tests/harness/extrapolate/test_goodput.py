import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import load_cluster
from harness.extrapolate.goodput import checkpoint_interval_s, goodput_share
from harness.units import significant

RELIABILITY = load_cluster("h100_100k").reliability


# Daly (2006) section 4 gives 117, 57 and 9.1 minutes for a checkpoint of 5 minutes.
@pytest.mark.parametrize(("mean_minutes", "minutes"), [(1440, 116.7), (360, 56.7), (15, 9.14)])
def test_intervals_are_those_of_the_paper(mean_minutes: float, minutes: float) -> None:
    interval = checkpoint_interval_s(mean_minutes * 60, 300) / 60
    assert interval == pytest.approx(minutes, rel=2e-3)


def test_a_checkpoint_longer_than_twice_the_mean_gives_the_mean() -> None:
    assert checkpoint_interval_s(100.0, 200.0) == 100.0


@pytest.mark.parametrize(
    ("chips", "checkpoint_s", "restart_s", "share"),
    [(16384, 60, 900, "0.830"), (100000, 6, 300, "0.781"), (100000, 60, 900, "0.467")],
)
def test_goodput_at_scale(chips: int, checkpoint_s: float, restart_s: float, share: str) -> None:
    reliability = dataclasses.replace(RELIABILITY, checkpoint_s=checkpoint_s, restart_s=restart_s)
    assert significant(goodput_share(reliability, chips)) == share


@given(st.integers(1, 10**6))
def test_more_chips_leave_less(chips: int) -> None:
    assert 0 <= goodput_share(RELIABILITY, chips + 1000) <= goodput_share(RELIABILITY, chips) <= 1


def test_a_machine_that_never_comes_back_does_nothing() -> None:
    reliability = dataclasses.replace(RELIABILITY, restart_s=1e9)
    assert goodput_share(reliability, 100_000) == 0
