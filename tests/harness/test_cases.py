import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.cases import Case, distinct
from kernels.op import problem

CASES = st.builds(
    Case,
    problem=st.builds(lambda n: problem("copy", "fp32", N=n), st.integers(1, 4)),
    impl=st.sampled_from(["torch", "compile", "triton"]),
    roles=st.lists(st.sampled_from(["roof", "training"]), max_size=1).map(tuple),
    cache=st.sampled_from(["", "hot"]),
)


@given(st.lists(CASES))
def test_each_case_is_there_once_with_all_its_roles(cases: list[Case]) -> None:
    found = distinct(cases)
    assert len({case.id for case in found}) == len(found)
    assert {case.id for case in found} == {case.id for case in cases}
    for case in found:
        wanted = {role for other in cases if other.id == case.id for role in other.roles}
        assert set(case.roles) == wanted


@given(st.lists(CASES))
def test_implementations_of_a_problem_stand_together(cases: list[Case]) -> None:
    problems = [case.problem for case in distinct(cases)]
    changes = sum(a != b for a, b in itertools.pairwise(problems))
    assert changes == max(0, len(set(problems)) - 1)


@given(st.lists(CASES))
def test_cases_of_one_state_of_the_cache_stand_together(cases: list[Case]) -> None:
    groups = [(case.problem, case.cache) for case in distinct(cases)]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert changes == max(0, len(set(groups)) - 1)


def test_an_id_is_stable() -> None:
    case = Case(problem=problem("gemm", "bf16", M=1, N=2, K=3), impl="triton")
    assert case.id == "gemm.bf16.forward[M=1,N=2,K=3]/triton"


def test_a_cache_of_its_own_is_part_of_the_id() -> None:
    case = Case(problem=problem("copy", "fp32", N=1), impl="torch", cache="hot")
    assert case.id == "copy.fp32.forward[N=1]/torch@hot"
