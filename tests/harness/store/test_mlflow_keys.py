import dataclasses
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import Case
from harness.results import ResultRow, Roofs, result_row
from harness.store.mlflow.keys import PlannedCase, clean, places, swept_axis
from harness.store.mlflow.layout import case_points
from kernels.op import Mode, Problem, problem
from tests.harness.sample_run import ok_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.utils.validation import _validate_metric_name

names = st.text(min_size=1, max_size=60)
ROW = result_row(
    ok_record(Case(problem=problem("gemm", "bf16", M=64, N=64, K=64), impl="torch")), Roofs()
)


def row_of(one: Problem, impl: str) -> ResultRow:
    case = Case(problem=one, impl=impl)
    return dataclasses.replace(
        ROW,
        case_id=case.id,
        group=one.group,
        op=one.op,
        dtype=one.dtype,
        mode=str(one.mode),
        axes=one.axes,
        impl=impl,
    )


@given(
    st.lists(
        st.builds(
            row_of,
            st.builds(
                Problem,
                op=st.sampled_from(["gemm", "a/b", "a b", "a_b", "..", "x" * 300]),
                axes=st.tuples(
                    st.tuples(st.just("M"), st.integers(1, 4)),
                    st.tuples(st.sampled_from(["N", "N=[1]"]), st.integers(1, 3)),
                ),
                dtype=st.sampled_from(["bf16", "fp@16"]),
                mode=st.sampled_from(Mode),
            ),
            st.one_of(names, st.sampled_from(["triton", "triton@2", "triton=2"])),
        ),
        max_size=40,
    )
)
def test_keys_are_accepted_and_no_two_cases_share_one_at_a_step(rows: list[ResultRow]) -> None:
    found = places(rows)
    assert set(found) == {row.case_id for row in rows}
    assert len(set(found.values())) == len(found)
    for place in found.values():
        key = place.key("median_us")
        _validate_metric_name(key)
        assert len(key) <= 250


@given(names)
def test_a_cleaned_name_is_never_empty_and_never_longer_than_asked(name: str) -> None:
    assert 1 <= len(clean(name, 40)) <= 40


def test_the_step_is_the_axis_that_leaves_the_fewest_lines() -> None:
    shapes = [(("M", m), ("N", n), ("K", k)) for m in (1, 2) for n, k in ((3, 4), (5, 6), (7, 8))]
    assert swept_axis(shapes) == "M"


@pytest.mark.parametrize(
    ("shapes", "axis"), [([(("N", 3),), (("N", 4),)], "N"), ([(("T", 1), ("H", 2))], "T"), ([], "")]
)
def test_a_single_size_is_at_its_first_axis(
    shapes: list[tuple[tuple[str, int], ...]], axis: str
) -> None:
    assert swept_axis(shapes) == axis


def test_implementation_and_other_varying_axes_are_in_the_key_and_constant_ones_are_not() -> None:
    rows = [
        row_of(problem("gemm", "bf16", M=m, N=n, K=64), impl)
        for m in (128, 256, 512)
        for n in (32, 64)
        for impl in ("torch", "triton")
    ]
    place = places(rows)[rows[-1].case_id]
    assert place.key("tflops") == "gemm.bf16.forward/tflops.N64.triton"
    assert place.step == 512


def test_a_size_that_stands_alone_is_in_the_key_at_step_0_so_that_bars_are_drawn() -> None:
    swept = [row_of(problem("gemm", "bf16", M=m, N=32, K=64), "torch") for m in (128, 256)]
    alone = [
        row_of(problem("gemm", "bf16", M=512, N=96, K=64), "torch"),
        row_of(problem("adamw", "bf16", N=4096), "torch"),
    ]
    found = places([*swept, *alone])
    assert [(found[row.case_id].key("gbps"), found[row.case_id].step) for row in alone] == [
        ("gemm.bf16.forward/gbps.M512.N96.K64.torch", 0),
        ("adamw.bf16.forward/gbps.N4096.torch", 0),
    ]
    assert {found[row.case_id].key("gbps") for row in swept} == {"gemm.bf16.forward/gbps.N32.torch"}


def test_no_point_moves_while_a_run_grows_to_what_was_planned() -> None:
    cases = [
        Case(problem=problem("gemm", "bf16", M=m, N=n, K=64), impl=impl)
        for m, n in ((64, 64), (128, 64), (256, 64), (256, 128))
        for impl in ("torch", "triton")
    ]
    rows = [result_row(ok_record(case), Roofs()) for case in cases]
    whole = {point.key: point for point in case_points(rows)}
    assert whole == {point.key: point for point in case_points(rows, planned=cases)}
    for number in range(1, len(rows)):
        grown = case_points(rows[:number], planned=cases)
        assert set(grown) <= set(case_points(rows))


def test_a_planned_case_has_the_place_of_its_result() -> None:
    case = Case(problem=problem("copy", "bf16", N=4096), impl="torch", cache="hot")
    row = result_row(ok_record(case), Roofs())
    assert places([PlannedCase.of(case)]) == places([row])
