"""After three failures in a row the rest of an op is skipped, and only then."""

from dataclasses import replace

from harness.cases import CHECK_ROLE, Case
from harness.record import Record, Status
from harness.worker.giving_up import FailureStreaks
from kernels.op import problem
from kernels.tuning import Config


def case(step: int, impl: str = "triton", role: str = "training") -> Case:
    return Case(problem=problem("copy", "bf16", N=1024 * step), impl=impl, roles=(role,))


def after(*statuses: Status, role: str = "training") -> FailureStreaks:
    streaks = FailureStreaks()
    for step, status in enumerate(statuses, start=1):
        of = case(step, role=role)
        streaks.add(Record(run_id="run", case=of, status=status, reason=f"reason {step}"))
    return streaks


def test_three_failures_of_any_kind_in_a_row_skip_the_rest_and_are_named() -> None:
    streaks = after(Status.ERROR, Status.TIMEOUT, Status.CRASHED)
    assert streaks.reason_to_skip(case(9)) == (
        "not tried: copy/triton had failed 3 times in a row, "
        "copy.bf16.forward[N=1024]/triton error; copy.bf16.forward[N=2048]/triton timeout; "
        "copy.bf16.forward[N=3072]/triton crashed. The last said: reason 3"
    )


def test_two_failures_or_a_success_among_three_skip_nothing() -> None:
    for streaks in (
        after(Status.OUT_OF_MEMORY, Status.ERROR),
        after(Status.ERROR, Status.ERROR, Status.OK, Status.ERROR, Status.ERROR),
    ):
        assert streaks.reason_to_skip(case(9)) == ""


def test_another_implementation_and_another_op_are_tried() -> None:
    streaks = after(Status.ERROR, Status.ERROR, Status.ERROR)
    assert streaks.reason_to_skip(case(9, "torch")) == ""
    other = Case(problem=problem("scale", "bf16", N=1024), impl="triton")
    assert streaks.reason_to_skip(other) == ""


def test_what_is_wrong_or_unsupported_costs_no_time_and_counts_neither_way() -> None:
    assert after(*[Status.INCORRECT] * 5).reason_to_skip(case(9)) == ""
    assert after(*[Status.UNSUPPORTED] * 5).reason_to_skip(case(9)) == ""
    between = after(Status.ERROR, Status.INCORRECT, Status.ERROR, Status.UNSUPPORTED, Status.ERROR)
    assert between.reason_to_skip(case(9))


def test_checks_that_fail_at_once_lose_no_check_after_them() -> None:
    assert after(*[Status.ERROR] * 5, role=CHECK_ROLE).reason_to_skip(case(9)) == ""
    assert after(*[Status.TIMEOUT] * 3, role=CHECK_ROLE).reason_to_skip(case(9))


def test_the_tries_of_a_search_are_never_skipped() -> None:
    streaks = FailureStreaks()
    config = Config(blocks=(("BLOCK", 64),), num_warps=4, num_stages=2)
    forced = replace(case(1), forced=(("copy", config),))
    for _ in range(5):
        streaks.add(Record(run_id="run", case=forced, status=Status.TIMEOUT))
    assert streaks.reason_to_skip(forced) == ""
    assert streaks.reason_to_skip(case(2)) == ""
