"""The hold: how much it queues for a time that is wanted, on stand-ins for timer and kernel."""

import itertools

import pytest
import torch

from harness.device.hold import CALIBRATION_TRIALS, CYCLES, MAX_REPEATS, WARM_S, Hold


class FixedTimer:
    """Every unit of work takes as long as it is told, in turn."""

    kind = "fixed"
    resolution_s = 1e-9

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds) or [1e-3]
        self.num_samples = 0

    def start(self) -> None:
        pass

    def stop(self) -> float:
        self.num_samples += 1
        return self._seconds[self.num_samples % len(self._seconds)]


class Cold(FixedTimer):
    """Units take ten times as long until so much of the host's time has passed."""

    def __init__(self, warm_after_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._warm_after_s = warm_after_s

    def stop(self) -> float:
        unit_s = 1e-2 if self.now_s < self._warm_after_s else 1e-3
        self.now_s += unit_s
        self.num_samples += 1
        return unit_s


def still() -> float:
    """A host's clock by which the chip is warm at once."""
    return next(_AFTERWARDS)


_AFTERWARDS = itertools.count(step=2 * WARM_S)


def additions(hold: Hold, seconds: float) -> float:
    before = float(hold._elements[0])
    hold(seconds)
    return float(hold._elements[0]) - before


def test_it_queues_as_many_units_as_the_time_needs() -> None:
    hold = Hold(torch.device("cpu"), FixedTimer(1e-3), still)
    assert additions(hold, 0.5e-3) == 1
    assert additions(hold, 3.5e-3) == 4


def test_it_queues_at_least_one_unit() -> None:
    assert additions(Hold(torch.device("cpu"), FixedTimer(1e-3), still), 0.0) == 1


def test_it_ends_however_long_the_host_takes() -> None:
    assert additions(Hold(torch.device("cpu"), FixedTimer(1e-3), still), 1e6) == MAX_REPEATS


def test_the_fastest_of_a_few_trials_says_how_long_a_unit_is() -> None:
    timer = FixedTimer(4e-3, 2e-3, 9e-3)
    hold = Hold(torch.device("cpu"), timer, still)
    assert timer.num_samples == CALIBRATION_TRIALS
    assert additions(hold, 8e-3) == 4


def test_a_cold_chip_is_warm_before_the_hold_is_calibrated() -> None:
    timer = Cold(warm_after_s=0.8 * WARM_S)
    hold = Hold(torch.device("cpu"), timer, lambda: timer.now_s)
    assert additions(hold, 8e-3) == 8


def test_the_chip_is_warmed_for_a_bounded_time() -> None:
    timer = Cold(warm_after_s=1.0)
    Hold(torch.device("cpu"), timer, lambda: timer.now_s)
    assert timer.now_s <= WARM_S + (CALIBRATION_TRIALS + 1) * 1e-2


def test_a_timer_that_sees_nothing_means_one_unit() -> None:
    assert additions(Hold(torch.device("cpu"), FixedTimer(0.0), still), 1.0) == 1


def test_cuda_spins_for_cycles_and_touches_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    spun: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", spun.append, raising=False)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    hold = Hold(torch.device("cuda"), FixedTimer(0.5e-3), still)
    assert spun == [CYCLES] * CALIBRATION_TRIALS
    spun.clear()
    hold(1e-3)
    assert spun == [2 * CYCLES]
    assert additions(hold, 1e-3) == 0
