import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from harness.config.specs import load_cluster
from harness.extrapolate.cluster import ClusterSpec, FailureRate, Part, Reliability
from harness.extrapolate.goodput import (
    checkpoint,
    checkpoint_interval_s,
    daly_share,
    goodput,
    goodput_share,
    interruption_interval_s,
    recovery_s,
    stall_share,
    wall_time_s,
)
from harness.extrapolate.goodput_interval import goodput_with_interval
from harness.extrapolate.spares import shortage, spare_hosts, spares_needed
from harness.projection import Goodput, Interval

H100 = load_cluster("h100_100k")
LLAMA_405B_STATE_BYTES = 405e9 * 14


def plain(**changes: object) -> Reliability:
    """Daly's own assumptions, with the rate of Llama 3."""
    values: dict[str, object] = {
        "failures": (FailureRate(part=Part.ANY, per_hour=1 / 50_700),),
        "restart_s": 300.0,
        "checkpoint_s": 6.0,
    }
    return Reliability(**(values | changes))  # type: ignore[arg-type]


def with_ends(cluster: ClusterSpec, num_chips: int = 100_000) -> Interval:
    found = goodput_with_interval(
        cluster,
        num_chips=num_chips,
        state_bytes=LLAMA_405B_STATE_BYTES,
        step_s=6.0,
        num_replicas=700,
    )
    assert found.interval is not None
    assert dataclasses.replace(found, interval=None) == left(cluster, num_chips)
    return found.interval


def left(cluster: ClusterSpec, num_chips: int = 100_000, **changes: float) -> Goodput:
    values: dict[str, float] = {"step_s": 6.0, "num_replicas": 700}
    return goodput(
        cluster,
        num_chips=num_chips,
        state_bytes=LLAMA_405B_STATE_BYTES,
        **(values | changes),  # type: ignore[arg-type]
    )


def with_reliability(**changes: object) -> ClusterSpec:
    return dataclasses.replace(
        H100,
        reliability=dataclasses.replace(H100.reliability, **changes),  # type: ignore[arg-type]
    )


# Daly (2006) section 4 gives 117, 57 and 9.1 minutes for a checkpoint of 5 minutes.
@pytest.mark.parametrize(("mean_minutes", "minutes"), [(1440, 116.7), (360, 56.7), (15, 9.14)])
def test_intervals_are_those_of_the_paper(mean_minutes: float, minutes: float) -> None:
    interval = checkpoint_interval_s(mean_minutes * 60, 300) / 60
    assert interval == pytest.approx(minutes, rel=2e-3)


def test_a_checkpoint_longer_than_twice_the_mean_gives_the_mean() -> None:
    assert checkpoint_interval_s(100.0, 200.0) == 100.0


@given(st.floats(600, 1e6), st.floats(1e-3, 0.2))
def test_no_other_interval_leaves_half_a_percent_more(mean_s: float, ratio: float) -> None:
    def wall(interval_s: float) -> float:
        return wall_time_s(
            work_s=1.0,
            interval_s=interval_s,
            interruption_s=mean_s,
            checkpoint_s=ratio * mean_s,
            restart_s=0.0,
        )

    best = minimize_scalar(wall, bounds=(1e-3 * mean_s, 10 * mean_s), method="bounded").fun
    assert wall(checkpoint_interval_s(mean_s, ratio * mean_s)) <= 1.005 * best


# 50,700 chip-hours: Llama 3 (arXiv 2407.21783 table 5), 419 unexpected interruptions in 54 days.
@pytest.mark.parametrize(
    ("chips", "checkpoint_minutes", "restart_minutes", "share"),
    [
        (1024, 1, 15, 0.969),
        (1024, 0.1, 15, 0.987),
        (1024, 0.1, 5, 0.990),
        (16384, 1, 15, 0.830),
        (16384, 0.1, 15, 0.892),
        (16384, 0.1, 5, 0.942),
        (16384, 0.05, 1.5, 0.969),
        (32768, 1, 15, 0.732),
        (32768, 0.1, 5, 0.904),
        (100000, 1, 15, 0.467),
        (100000, 0.1, 15, 0.562),
        (100000, 0.1, 5, 0.781),
        (100000, 0.05, 1.5, 0.898),
    ],
)
def test_goodput_at_scale(
    chips: int, checkpoint_minutes: float, restart_minutes: float, share: float
) -> None:
    mean_s = interruption_interval_s(plain(), chips)
    found = daly_share(mean_s, 60 * checkpoint_minutes, 60 * restart_minutes)
    assert found == pytest.approx(share, abs=1e-3)


def test_the_time_between_failures_can_be_set_and_keeps_the_parts() -> None:
    worse = H100.reliability.with_mtbf_hours_per_chip(10_000)
    assert worse.mtbf_hours_per_chip == pytest.approx(10_000)
    ratios = [
        one.per_hour / other.per_hour
        for one, other in zip(worse.failures, H100.reliability.failures, strict=True)
    ]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert goodput_share(worse, 16384) < goodput_share(H100.reliability, 16384)


def test_a_job_of_which_nothing_is_known_has_daly_s_share() -> None:
    mean_s = interruption_interval_s(H100.reliability, 16384)
    assert goodput_share(H100.reliability, 16384) == daly_share(mean_s, 6, 60 + 60 + 180)


@given(st.integers(8, 200_000), st.floats(1, 1800), st.floats(0.1, 120))
def test_without_refinements_it_is_daly_s(
    chips: int, restart_s: float, checkpoint_s: float
) -> None:
    reliability = plain(restart_s=restart_s, checkpoint_s=checkpoint_s)
    cluster = dataclasses.replace(
        H100, reliability=reliability, storage=None, stragglers=None, spare_confidence=None
    )
    mean_s = interruption_interval_s(reliability, chips)
    found = left(cluster, chips)
    assert found.share == pytest.approx(daly_share(mean_s, checkpoint_s, restart_s), rel=1e-9)


@given(
    st.integers(8, 200_000),
    st.floats(0, 600),
    st.floats(0, 0.5),
    st.booleans(),
    st.integers(0, 100),
    st.floats(0.5, 60),
)
def test_the_share_and_the_losses_are_all_of_the_time(
    chips: int, detection_s: float, failing: float, is_elastic: bool, spares: int, step_s: float
) -> None:
    cluster = dataclasses.replace(
        with_reliability(
            detection_s=detection_s, restart_failure_share=failing, is_elastic=is_elastic
        ),
        spare_hosts=spares,
    )
    found = left(cluster, chips, step_s=step_s)
    assert 0 <= found.share <= 1
    assert all(0 <= lost <= 1 for _, lost in found.losses)
    assert found.share + sum(lost for _, lost in found.losses) == pytest.approx(1)


@given(st.integers(8, 10**6))
def test_more_chips_leave_less(chips: int) -> None:
    # Spare hosts come in whole numbers, so they alone make it rise at times.
    cluster = dataclasses.replace(H100, spare_confidence=None)
    assert 0 <= left(cluster, chips + 1000).share <= left(cluster, chips).share <= 1


@pytest.mark.parametrize(
    "worse",
    [
        {"detection_s": 600.0},
        {"replacement_s": 600.0},
        {"restart_s": 900.0},
        {"restart_failure_share": 0.5},
        {"repair_hours": 72.0},
    ],
)
def test_whatever_takes_longer_leaves_less(worse: dict[str, float]) -> None:
    assert left(with_reliability(**worse)).share < left(H100).share


def test_llama_3_is_left_more_than_90_percent() -> None:
    # arXiv 2407.21783 section 3.3.4: more than 90 % effective training time on 16,384 chips.
    cluster = load_cluster("h100_16k")
    assert 0.9 < left(cluster, 16384).share < 0.97


def test_a_machine_that_never_comes_back_does_nothing() -> None:
    found = left(with_reliability(restart_s=1e9))
    assert found.share == 0
    assert dict(found.losses) == {"coming back from failures": 1.0}


def test_the_rate_of_a_cluster_is_the_sum_of_its_parts() -> None:
    rates = {rate.part: rate.per_chip_hour * 1e6 for rate in H100.reliability.failures}
    assert rates[Part.HOST] == pytest.approx(17.3 / 8)
    assert H100.reliability.mtbf_hours_per_chip == pytest.approx(50_700, rel=1e-3)
    # Half the chips per host mean twice the hosts.
    gb200 = load_cluster("gb200_100k").reliability
    more = gb200.failures_per_chip_hour - H100.reliability.failures_per_chip_hour
    assert more * 1e6 == pytest.approx(17.3 / 8)


def test_the_rate_is_between_those_of_two_other_fleets() -> None:
    # Kokolis et al. (arXiv 2410.21680): 2.34 and 6.50 failures per 1,000 days of a node of 8 A100.
    hours = [1000 * 24 * 8 / failures for failures in (6.50, 2.34)]
    assert hours[0] < H100.reliability.mtbf_hours_per_chip < hours[1]


def test_software_sends_no_host_to_repair() -> None:
    parts = H100.reliability.failures
    gone = sum(one.per_chip_hour for one in parts if one.part in (Part.SOFTWARE, Part.SWITCH))
    reliability = H100.reliability
    assert reliability.repairs_per_chip_hour == pytest.approx(
        reliability.failures_per_chip_hour - gone
    )


def test_a_checkpoint_is_its_bytes_over_the_storage() -> None:
    assert H100.storage is not None
    found = checkpoint(H100.reliability, H100.storage, 14e9 * 1000, 1000)
    assert found.blocking_s == pytest.approx(2 + 14 / 25)
    assert found.behind_s == pytest.approx(14 / 0.08)
    assert found.load_s == pytest.approx(14 / 0.08)


def test_a_checkpoint_that_is_not_asynchronous_is_waited_for() -> None:
    assert H100.storage is not None
    storage = dataclasses.replace(H100.storage, is_asynchronous=False)
    found = checkpoint(H100.reliability, storage, 14e9 * 1000, 1000)
    assert (found.blocking_s, found.behind_s) == (pytest.approx(2 + 14 / 0.08), 0.0)


def test_no_checkpoint_begins_before_the_last_one_is_written() -> None:
    assert H100.storage is not None
    storage = dataclasses.replace(H100.storage, write_bytes_per_s_per_chip=1e5)
    found = left(dataclasses.replace(H100, storage=storage))
    assert found.checkpoint_interval_s == found.checkpoint_behind_s > 100


def test_restarts_that_fail_are_begun_again() -> None:
    reliability = plain(restart_failure_share=0.5)
    assert recovery_s(reliability, 1e12) == pytest.approx(600, rel=1e-6)
    # A try of 300 s between failures every 300 s succeeds once in e.
    assert recovery_s(plain(), 300.0) == pytest.approx(300 * math.expm1(1))


# Failures in repair are Poisson; 99.9 % quantiles of 100,000 chips at 50,700 chip-hours.
@pytest.mark.parametrize(("repair_hours", "spares"), [(4, 18), (24, 70), (72, 180)])
def test_spares_for_nearly_all_of_the_time(repair_hours: float, spares: int) -> None:
    assert spares_needed(100_000 / 50_700 * repair_hours) == spares


@given(st.floats(0.01, 200), st.integers(0, 300))
def test_a_shortage_is_that_of_a_poisson_number(mean: float, spares: int) -> None:
    weights = [math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(700)]
    beyond, missing = shortage(mean, spares)
    assert beyond == pytest.approx(sum(weights[spares + 1 :]), abs=1e-9)
    expected = sum((k - spares) * weight for k, weight in enumerate(weights) if k > spares)
    assert missing == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_large_numbers_of_hosts_go_on_where_small_ones_end() -> None:
    for mean in (0.999e4, 1.001e4):
        assert spares_needed(mean) == pytest.approx(mean + 3.09 * math.sqrt(mean), rel=1e-3)
        beyond, missing = shortage(mean, 10_000)
        assert beyond == pytest.approx(0.5, abs=0.05)
        assert missing == pytest.approx(0.4 * math.sqrt(mean), rel=0.15)
    assert math.isfinite(spares_needed(1e18))


def test_few_spares_leave_the_job_waiting() -> None:
    few = left(dataclasses.replace(H100, spare_hosts=30))
    assert few.spare_hosts_needed == pytest.approx(56, abs=2)
    assert dict(few.losses)["waiting for spare hosts"] == few.shortage_share > 0.5
    assert left(H100).shortage_share < 5e-3


def test_spares_follow_from_the_chips_where_no_number_is_given() -> None:
    for chips in (8, 1024, 100_000):
        assert left(H100, chips).shortage_share <= 0.005
    assert spare_hosts(H100, 8) == 0
    few, many = spare_hosts(H100, 1024), spare_hosts(H100, 100_000)
    assert few is not None
    assert many is not None
    assert 50 < many < 60 <= 20 * few


def test_idle_chips_stand_in_for_spare_hosts() -> None:
    few = dataclasses.replace(H100, spare_hosts=0)
    many = dataclasses.replace(H100, spare_hosts=64)
    assert left(few, idle_chips=512).spare_hosts == 64
    assert left(few, idle_chips=512).share == left(many).share


def test_an_elastic_job_loses_a_replica_and_not_the_job() -> None:
    elastic = left(with_reliability(is_elastic=True, reconfiguration_s=30.0))
    assert elastic.share > left(H100).share + 0.05
    # One replica of two that is away is half of the machine.
    halves = left(with_reliability(is_elastic=True), num_replicas=2)
    assert halves.share < left(with_reliability(is_elastic=True), num_replicas=1000).share - 0.05


def test_stalls_cost_their_number_and_never_more_than_one_of_each_step() -> None:
    rare = stall_share(8192, 80e-6, 5.0, 5.0)
    assert rare == pytest.approx(8192 * 80e-6 / 3600 * 5.0, rel=1e-3)
    assert stall_share(10**9, 1.0, 5.0, 10.0) == pytest.approx(0.5)


def test_the_stalls_of_the_files_spread_steps_as_the_logs_say() -> None:
    # MLPerf Training v5.0, Llama 3.1 405B on 8,192 H100: 3 % of a step of 5.1 s.
    rare = H100.stragglers
    assert rare is not None
    per_step = 8192 * rare.stalls_per_chip_hour / 3600 * 5.13
    assert math.sqrt(per_step) * rare.stall_s / 5.13 == pytest.approx(0.03, rel=0.05)


def test_what_the_inputs_leave_open_is_wider_on_more_chips() -> None:
    small, large = with_ends(H100, 1024), with_ends(H100)
    for ends in (small, large):
        assert 0 <= ends.low < ends.value < ends.high <= 1
    assert large.high - large.low > 5 * (small.high - small.low)


@pytest.mark.parametrize("name", ["h100_16k", "gb200_100k", "mixed_100k"])
def test_every_kind_of_cluster_has_an_interval(name: str) -> None:
    cluster = load_cluster(name)
    ends = with_ends(cluster, cluster.num_chips)
    assert ends.low < ends.value < ends.high


def test_llama_3_s_goodput_is_within_the_interval() -> None:
    # More than 90 % on 16,384 chips (arXiv 2407.21783 section 3.3.4).
    ends = with_ends(load_cluster("h100_16k"), 16384)
    assert 0.9 < ends.low < ends.high < 0.98
