"""The difference of a step between two chips, taken apart."""

import math

import pytest

from harness.compare import TOLERANCE, compare_runs
from harness.comparison import Cause, RunPair, Waterfall
from harness.results import best_rows, result_rows
from tests.harness.compare.chips import Chip, chip_input
from tests.harness.sample_run import sample_projection

ALPHA = Chip()


def compared(first: Chip, second: Chip, *suite: str, with_launch: bool = True) -> RunPair:
    runs = [
        chip_input(chip, *(suite or ("suite=quick",)), with_launch=with_launch)
        for chip in (first, second)
    ]
    return compare_runs(runs, comparison_id="it", tolerance=TOLERANCE).pairs[0]


def step(first: Chip, second: Chip, *suite: str, with_launch: bool = True) -> Waterfall:
    (found, *_) = compared(first, second, *suite, with_launch=with_launch).waterfalls
    return found


def assert_adds_up(waterfall: Waterfall) -> None:
    bars = math.fsum(bar.seconds for bar in waterfall.bars)
    assert waterfall.first_s + bars == pytest.approx(waterfall.second_s, rel=1e-9)


def test_a_chip_of_twice_the_matrix_rate_differs_by_that() -> None:
    found = step(ALPHA, Chip(name="beta", flops_per_s=200e12))
    assert_adds_up(found)
    assert found.bar(Cause.MATRIX_RATE) < 0
    others = [bar.seconds for bar in found.bars if bar.cause is not Cause.MATRIX_RATE]
    # The measured roofs have the efficiency of the roof cases in them, and so a little launch.
    assert sum(abs(seconds) for seconds in others) < 0.06 * abs(found.difference_s)


def test_a_longer_launch_is_told_apart_from_a_lower_efficiency() -> None:
    found = step(ALPHA, Chip(name="beta", launch_s=15e-6))
    assert_adds_up(found)
    assert found.bar(Cause.LAUNCH) == pytest.approx(found.difference_s, rel=0.15)
    without = step(ALPHA, Chip(name="beta", launch_s=15e-6), with_launch=False)
    assert_adds_up(without)
    assert without.bar(Cause.LAUNCH) == 0
    assert any("No launch was measured on A and B" in note for note in without.notes)


def test_the_step_is_the_sum_of_the_fastest_as_often_as_the_model_has_them() -> None:
    run = chip_input(ALPHA, "suite=quick")
    best = {row.problem_id: row.median_s for row in best_rows(result_rows(run.records))}
    (work,) = run.work
    wanted = sum(item.count * (best[item.problem.id] or 0) for item in work.items)
    found = step(ALPHA, Chip(name="beta"))
    assert found.first_s == pytest.approx(wanted)
    assert found.first_s == pytest.approx(found.second_s)
    norms = [item.count for item in work.items if item.role == "attention norm"]
    assert norms == [32, 32]  # Of each layer of llama3_8b, forward and backward.


def test_a_kernel_that_is_missing_costs_what_the_other_chip_gains_by_it() -> None:
    found = step(ALPHA, Chip(name="beta", lacking=("swiglu/triton",)))
    assert_adds_up(found)
    assert found.bar(Cause.FALLBACK) == pytest.approx(found.difference_s, rel=0.1)
    assert [op.name.partition(":")[0] for bar in found.bars for op in bar.ops][:1] == [
        "mlp activation backward"
    ]


def test_an_op_without_any_time_on_one_chip_is_estimated_in_a_bar_of_its_own() -> None:
    beta = Chip(name="beta", bytes_per_s=2e12, lacking=("rope",))
    pair = compared(ALPHA, beta)
    found = pair.waterfalls[0]
    assert_adds_up(found)
    assert found.second_estimated_s > 0 == found.first_estimated_s
    (bar,) = (bar for bar in found.bars if bar.cause is Cause.UNTIMED)
    assert {op.name.partition(":")[0] for op in bar.ops} == {"rope", "rope backward"}
    missing = [one for one in pair.missing if one.label == "B"]
    assert {one.status for one in missing} == {"unsupported"}
    assert not any(one.has_other for one in missing)


def test_without_a_roof_an_op_that_one_chip_lacks_is_left_out_and_named() -> None:
    pair = compared(
        ALPHA,
        Chip(name="beta", bytes_per_s=0.5e12, lacking=("rope",)),
        "suite=quick",
        "suite.roofs=[]",
    )
    found = pair.waterfalls[0]
    assert_adds_up(found)
    assert any("B has no time, and there is no roof" in text for text in found.left_out)
    assert {bar.cause for bar in found.bars} == {Cause.UNEXPLAINED}


def test_decoding_is_taken_apart_for_each_batch() -> None:
    pair = compared(ALPHA, Chip(name="beta", bytes_per_s=3e12), "suite=inference")
    assert [one.phase for one in pair.waterfalls] == ["prefill", "decode", "decode"]
    for found in pair.waterfalls:
        assert_adds_up(found)
    decode = pair.waterfalls[1]
    assert decode.bar(Cause.BANDWIDTH) == min(bar.seconds for bar in decode.bars)
    assert "no communication is in it" in decode.notes[0]


def test_communication_follows_the_projections_in_proportion_to_compute() -> None:
    runs = [
        chip_input(chip, "suite=quick", projection=sample_projection())
        for chip in (ALPHA, Chip(name="beta"))
    ]
    (found,) = compare_runs(runs, comparison_id="it", tolerance=TOLERANCE).pairs[0].waterfalls
    assert_adds_up(found)
    # Of 8.3 s of compute, 2.5 s are sent and 1.2 s are the bubble; equal chips do not differ.
    plain = step(ALPHA, Chip(name="beta"))
    assert found.first_s == pytest.approx(plain.first_s * 12.0 / 8.3)
    assert found.bar(Cause.COMMUNICATION) == pytest.approx(0.0, abs=1e-12)
    assert any("there is no projection of A and B" in note for note in plain.notes)


def test_joules_of_a_step_need_the_energy_of_every_op_on_both() -> None:
    hungry = Chip(name="beta", joules_per_s=700.0)
    found = step(Chip(joules_per_s=350.0), hungry)
    assert found.first_joules == pytest.approx(350.0 * found.first_s, rel=0.01)
    assert found.second_joules == pytest.approx(2 * found.first_joules, rel=0.01)
    assert step(ALPHA, hungry).second_joules is None
