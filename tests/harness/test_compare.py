from dataclasses import replace

import pytest

from harness.cases import Case
from harness.compare import Verdict, compare_records, verdict
from harness.errors import RecordError
from harness.record import Record, Status
from kernels.op import problem
from tests.harness.sample_run import ok_record


def record(op: str, median_s: float, cache: str = "cold") -> Record:
    case = Case(problem=problem(op, "bf16", N=8), impl="torch")
    found = ok_record(case)
    assert found.measurement is not None
    samples_s = tuple(median_s * (1 + 0.001 * (index % 5 - 2)) for index in range(20))
    measurement = replace(found.measurement, samples_s=samples_s, cache=cache)
    return replace(found, measurement=measurement, protocol_hash="same")


def test_a_run_is_the_same_as_itself() -> None:
    records = [record("copy", 1e-3), record("adamw", 2e-3)]
    compared = compare_records(records, records)
    assert [found.verdict for found in compared.comparisons] == [Verdict.SAME] * 2
    assert compared.geomean_speedup == pytest.approx(1.0)


def test_half_the_time_is_twice_as_fast() -> None:
    compared = compare_records([record("copy", 2e-3)], [record("copy", 1e-3)])
    assert compared.comparisons[0].verdict is Verdict.FASTER
    assert compared.comparisons[0].speedup == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.1, 1.2, Verdict.FASTER),
        (0.8, 0.9, Verdict.SLOWER),
        (0.99, 1.01, Verdict.SAME),
        (0.99, 1.2, Verdict.AMBIGUOUS),
        (0.8, 1.3, Verdict.AMBIGUOUS),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, expected: Verdict) -> None:
    assert verdict(low, high, tolerance=0.03) is expected


def test_different_protocols_are_refused_and_the_part_is_named() -> None:
    ours, theirs = record("copy", 1e-3), record("copy", 1e-3, cache="hot")
    theirs = replace(theirs, protocol_hash="other")
    with pytest.raises(RecordError, match="cache: cold and hot"):
        compare_records([ours], [theirs])
    forced = compare_records([ours], [theirs], is_forced=True)
    assert forced.different_protocol == (ours.case.id,)


def test_a_case_without_a_time_on_one_side_is_named_not_compared() -> None:
    failed = replace(record("copy", 1e-3), status=Status.TIMEOUT, measurement=None)
    compared = compare_records([record("copy", 1e-3)], [failed])
    assert compared.comparisons == ()
    assert compared.only_first == (failed.case.id,)
