from dataclasses import replace

import pytest

from harness.cases import Case
from harness.compare import MAX_DIFFERENCES, Verdict, compare_records, verdict
from harness.errors import RecordError
from harness.record import Record, Status
from kernels import registry
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


PARTS = (("op", "copy forward 1a2b3c4d"), ("seed", "0"), ("cache", "cold, 2 sets of inputs"))


def under(found: Record, protocol_hash: str, **changes: str) -> Record:
    """The record as measured by a protocol that differs in these parts."""
    parts = tuple((dict(PARTS) | changes).items())
    return replace(found, protocol_hash=protocol_hash, protocol_parts=parts)


def test_different_protocols_are_refused_and_every_part_is_named_with_both_values() -> None:
    ours = under(record("copy", 1e-3), "one")
    theirs = under(record("copy", 1e-3), "other", seed="7", cache="hot, 1 sets of inputs")
    with pytest.raises(RecordError) as refused:
        compare_records([ours], [theirs])
    assert str(refused.value) == (
        "1 of 1 common cases were measured by different protocols, so their times are not of "
        "equal work. seed: 0 and 7, cache: cold, 2 sets of inputs and hot, 1 sets of inputs "
        "(1 cases). --force compares them all the same and labels them."
    )


def test_a_refusal_counts_the_cases_of_each_difference() -> None:
    names = ("copy", "scale", "add", "triad")
    ours = [under(record(name, 1e-3), "one") for name in names]
    theirs = [under(record(name, 1e-3), "other", seed="7") for name in names[:2]]
    theirs += [under(record("add", 1e-3), "third", inputs="zeros"), ours[3]]
    with pytest.raises(RecordError) as refused:
        compare_records(ours, theirs)
    assert "3 of 4 common cases" in str(refused.value)
    assert "seed: 0 and 7 (2 cases); inputs: none and zeros (1 cases)." in str(refused.value)


def test_a_refusal_names_the_commonest_differences_and_counts_the_rest() -> None:
    names = registry.names()[: MAX_DIFFERENCES + 2]
    ours = [under(record(name, 1e-3), "one") for name in names]
    theirs = [under(one, "other", op=f"changed {index}") for index, one in enumerate(ours)]
    with pytest.raises(RecordError, match="; and 2 other differences"):
        compare_records(ours, theirs)


def test_forced_comparisons_say_each_by_itself_what_differs() -> None:
    ours = [under(record(name, 1e-3), "one") for name in ("copy", "add")]
    theirs = [under(ours[0], "other", inputs="zeros"), ours[1]]
    forced = compare_records(ours, theirs, is_forced=True)
    assert [one.difference for one in forced.comparisons] == ["inputs: none and zeros", ""]
    assert forced.different_protocol == (ours[0].case.id,)


def test_records_of_older_versions_are_refused_by_what_they_show() -> None:
    ours, theirs = record("copy", 1e-3), record("copy", 1e-3, cache="hot")
    theirs = replace(theirs, protocol_hash="other")
    with pytest.raises(RecordError, match="cache: cold and hot"):
        compare_records([ours], [theirs])
    with pytest.raises(RecordError, match="cache: cold and hot"):
        compare_records([under(ours, "one")], [theirs])
    forced = compare_records([ours], [theirs], is_forced=True)
    assert forced.comparisons[0].difference == "cache: cold and hot"


def with_sets(found: Record, num_input_sets: int) -> Record:
    assert found.measurement is not None
    return replace(found, measurement=replace(found.measurement, num_input_sets=num_input_sets))


def test_a_case_with_fewer_sets_of_inputs_is_compared_and_told_of() -> None:
    ours = [with_sets(record(name, 1e-3), 2) for name in ("copy", "add")]
    theirs = [with_sets(ours[0], 1), ours[1]]
    fewer, equal = compare_records(ours, theirs).comparisons
    assert (fewer.first_input_sets, fewer.second_input_sets) == (2, 1)
    assert fewer.has_other_input_sets
    assert not equal.has_other_input_sets


def test_a_case_without_a_time_on_one_side_is_named_not_compared() -> None:
    failed = replace(record("copy", 1e-3), status=Status.TIMEOUT, measurement=None)
    compared = compare_records([record("copy", 1e-3)], [failed])
    assert compared.comparisons == ()
    assert compared.only_first == (failed.case.id,)
