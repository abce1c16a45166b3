"""After three failures in a row the rest of an implementation is skipped, and only then."""

from dataclasses import replace

import pytest

from harness.cases import CHECK_ROLE, Case
from harness.record import Record, Status
from harness.worker.giving_up import FailureStreaks
from kernels import registry
from kernels.op import Mode, Problem, problem
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
        "not tried: copy.bf16.forward/triton had failed 3 times in a row, "
        "copy.bf16.forward[N=1024]/triton error; copy.bf16.forward[N=2048]/triton timeout; "
        "copy.bf16.forward[N=3072]/triton crashed. The last said: reason 3"
    )


def test_two_failures_or_a_success_among_three_skip_nothing() -> None:
    for streaks in (
        after(Status.TIMEOUT, Status.ERROR),
        after(Status.ERROR, Status.ERROR, Status.OK, Status.ERROR, Status.ERROR),
    ):
        assert streaks.reason_to_skip(case(9)) == ""


def test_another_implementation_and_another_op_are_tried() -> None:
    streaks = after(Status.ERROR, Status.ERROR, Status.ERROR)
    assert streaks.reason_to_skip(case(9, "torch")) == ""
    other = Case(problem=problem("scale", "bf16", N=1024), impl="triton")
    assert streaks.reason_to_skip(other) == ""


@pytest.mark.parametrize(
    "other",
    [
        problem("gemm", "int8", M=8, N=8, K=8),
        problem("gemm", "fp8", Mode.BACKWARD, M=8, N=8, K=8),
        problem("gemm", "fp8", Mode.FORWARD, "rows", M=8, N=8, K=8),
    ],
    ids=["type", "mode", "variant"],
)
def test_another_type_mode_and_variant_are_tried(other: Problem) -> None:
    streaks = FailureStreaks()
    for step in (1, 2, 3):
        failed = Case(problem=problem("gemm", "fp8", M=8 * step, N=8, K=8), impl="torch")
        streaks.add(Record(run_id="run", case=failed, status=Status.ERROR))
    same = Case(problem=problem("gemm", "fp8", M=64, N=8, K=8), impl="torch")
    assert streaks.reason_to_skip(same)
    assert streaks.reason_to_skip(replace(same, problem=other)) == ""


def of_size(step: int, status: Status, role: str = "training") -> Record:
    sized = case(step, role=role)
    cost = registry.cost(sized.problem)
    return Record(run_id="run", case=sized, status=status, reason=f"at {step}", cost=cost)


def out_of_memory(*steps: int, role: str = "training") -> FailureStreaks:
    streaks = FailureStreaks()
    for step in steps:
        streaks.add(of_size(step, Status.OUT_OF_MEMORY, role))
    return streaks


def test_out_of_memory_skips_what_is_as_large_as_the_smallest_that_failed_or_larger() -> None:
    streaks = out_of_memory(50, 30, 40)
    assert streaks.reason_to_skip(case(29)) == ""
    # A copy in bf16 reads and writes 2 bytes for each of its 1024 x step elements.
    assert streaks.reason_to_skip(case(30)).startswith(
        "not tried: it moves 122,880 bytes at least, and from 122,880 on copy.bf16.forward/triton "
        "had been out of memory 3 times in a row, copy.bf16.forward[N=51200]/triton out_of_memory; "
    )
    assert streaks.reason_to_skip(case(99)).endswith("The last said: at 40")


def test_a_size_that_fits_ends_the_row_of_those_that_are_no_larger() -> None:
    streaks = out_of_memory(30, 40, 50)
    streaks.add(of_size(20, Status.OK))
    assert streaks.reason_to_skip(case(60))
    streaks.add(of_size(35, Status.OK))
    assert streaks.reason_to_skip(case(60)) == ""
    streaks.add(of_size(60, Status.OUT_OF_MEMORY))
    assert streaks.reason_to_skip(case(39)) == ""
    assert streaks.reason_to_skip(case(40))


def test_lack_of_memory_and_errors_are_no_common_row() -> None:
    streaks = out_of_memory(30, 40)
    for step in (1, 2):
        streaks.add(of_size(step, Status.ERROR))
    assert streaks.reason_to_skip(case(50)) == ""


def test_checks_that_are_out_of_memory_lose_no_check_after_them() -> None:
    assert out_of_memory(30, 40, 50, role=CHECK_ROLE).reason_to_skip(case(60)) == ""


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
