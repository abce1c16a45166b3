"""Several runs against the first: groups, means, what is missing, and what is refused."""

from dataclasses import replace

import pytest

from harness.codec import from_json, to_json
from harness.compare import TOLERANCE, RunInput, compare_runs
from harness.comparison import ChipComparison, Verdict
from harness.errors import ConfigError, NothingMeasured, RecordError
from harness.projection import Interval
from tests.harness.compare.chips import Chip, chip_input

ALPHA = Chip()


def compare(*runs: RunInput, is_forced: bool = False) -> ChipComparison:
    return compare_runs(runs, comparison_id="it", tolerance=TOLERANCE, is_forced=is_forced)


def quick(chip: Chip) -> RunInput:
    return chip_input(chip, "suite=quick")


def test_every_other_run_is_held_against_the_first() -> None:
    found = compare(
        quick(ALPHA),
        quick(Chip(name="beta", flops_per_s=200e12, bytes_per_s=2e12, launch_s=2.5e-6)),
        quick(Chip(name="gamma", flops_per_s=50e12, bytes_per_s=0.5e12, launch_s=10e-6)),
    )
    assert [run.label for run in found.runs] == ["A", "B", "C"]
    assert [pair.overall.verdict for pair in found.pairs] == [Verdict.FASTER, Verdict.SLOWER]
    assert found.pairs[0].overall.speedup.value == pytest.approx(2.0)
    assert found.pairs[1].overall.speedup.value == pytest.approx(0.5)
    assert from_json(ChipComparison, to_json(found)) == found


def test_a_group_is_one_op_type_and_mode_with_all_its_sizes_in_each_phase() -> None:
    (pair,) = compare(quick(ALPHA), quick(Chip(name="beta", flops_per_s=200e12))).pairs
    named = [(group.phase, group.group) for group in pair.groups]
    assert len(set(named)) == len(named)
    (gemm,) = (one for one in pair.groups if (one.phase, one.group) == ("training", GEMM))
    assert gemm.num_problems == 5
    assert 1 < gemm.speedup.low < gemm.speedup.value < gemm.speedup.high < 2
    assert ("roof", GEMM) in named


GEMM = "gemm.bf16.forward"


def test_each_chip_is_compared_by_its_fastest_implementation() -> None:
    torch_only = Chip(name="beta", efficiency={"torch": 0.9, "compile": 0.5, "triton": 0.5})
    (pair,) = compare(quick(ALPHA), quick(torch_only)).pairs
    gemm = next(group for group in pair.groups if group.group == GEMM)
    assert (gemm.first_impls, gemm.second_impls) == (("triton",), ("torch",))
    assert gemm.verdict is Verdict.FASTER
    # Case by case the same implementation stands on both sides, and is slower.
    triton = [case for case in pair.cases if case.case_id.endswith("/triton")]
    assert {case.verdict for case in triton if case.op == "gemm"} == {Verdict.SLOWER}


def test_the_interval_of_a_mean_narrows_with_the_number_of_problems() -> None:
    (pair,) = compare(quick(ALPHA), quick(Chip(name="beta"))).pairs

    def width(interval: Interval) -> float:
        return interval.high - interval.low

    one = next(group for group in pair.groups if group.num_problems == 1)
    assert width(pair.overall.speedup) < width(one.speedup) / 3


def test_shares_of_the_roof_are_of_each_chips_own() -> None:
    better = Chip(name="beta", flops_per_s=300e12, bytes_per_s=3e12, launch_s=5e-6 / 3)
    (pair,) = compare(quick(ALPHA), quick(better)).pairs
    assert pair.overall.first_roof_share == pytest.approx(pair.overall.second_roof_share or 0)


def test_joules_are_compared_where_both_measured_them() -> None:
    first, second = (quick(Chip(name=name, joules_per_s=w)) for name, w in (("a", 100), ("b", 50)))
    (pair,) = compare(first, second).pairs
    assert pair.overall.joules_ratio == pytest.approx(0.5)
    (pair,) = compare(quick(ALPHA), second).pairs
    assert pair.overall.joules_ratio is None


def test_what_one_chip_cannot_run_is_named_with_its_reason() -> None:
    (pair,) = compare(quick(ALPHA), quick(Chip(name="beta", lacking=("gemm/triton",)))).pairs
    assert {(one.label, one.status, one.reason) for one in pair.missing} == {
        ("B", "unsupported", "No triton here.")
    }
    assert all(one.has_other for one in pair.missing)


def test_other_protocols_are_refused_with_the_part_and_labelled_where_forced() -> None:
    runs = quick(ALPHA), quick(Chip(name="beta", inputs="zeros"))
    with pytest.raises(RecordError, match="inputs: normal and zeros"):
        compare(*runs)
    (pair,) = compare(*runs, is_forced=True).pairs
    assert len(pair.different_protocol) == len(pair.cases)
    assert pair.cases[0].difference == "inputs: normal and zeros"


def test_other_protocols_are_refused_where_no_implementation_is_common() -> None:
    first = quick(Chip(lacking=("gemm/torch", "gemm/compile")))
    second = quick(Chip(name="beta", lacking=("gemm/triton",)))
    other = replace(
        second,
        records=tuple(
            replace(one, protocol_hash="x", protocol_parts=(("inputs", "zeros"),))
            if one.case.problem.op == "gemm"
            else one
            for one in second.records
        ),
    )
    assert compare(first, second).pairs[0].different_protocol == ()
    with pytest.raises(RecordError, match="problems were measured by different protocols"):
        compare(first, other)
    assert len(compare(first, other, is_forced=True).pairs[0].different_protocol) == 16


def test_runs_without_a_common_problem_are_refused() -> None:
    one = quick(ALPHA)
    halves = (one.records[:3], one.records[3:])
    first, second = (
        replace(one, run_id=str(place), records=half) for place, half in enumerate(halves)
    )
    with pytest.raises(NothingMeasured, match="no problem with a time in common"):
        compare(first, second)


@pytest.mark.parametrize(
    ("count", "message"), [(1, "one run is named"), (2, "is named twice"), (27, "27 runs are too")]
)
def test_one_run_the_same_twice_and_too_many_are_refused(count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(*[quick(ALPHA)] * count)


def test_a_suite_of_another_model_says_why_no_step_is_taken_apart() -> None:
    other = chip_input(Chip(name="beta"), "suite=quick", "model=qwen3_32b")
    (pair,) = compare(quick(ALPHA), other).pairs
    assert pair.waterfalls == ()
    assert len(pair.no_waterfall) == 2
    assert "B does not measure the training step of llama3_8b" in pair.no_waterfall[0]
    without = replace(other, work=())
    assert (
        "configuration of B names no phase"
        in compare(quick(ALPHA), without).pairs[0].no_waterfall[0]
    )
