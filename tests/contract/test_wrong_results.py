"""A wrong result of any op is found out, and the reference itself in the op's types is right."""

import pytest
import torch

from harness.measure.correctness import compare
from kernels import registry
from kernels.dtypes import torch_dtype
from kernels.op import Mode, Outputs, Problem, problem
from tests.kernels.checks import expected, inputs_of, odd_problem

REALISTIC = (
    problem(
        "attention", "bf16", Mode.FORWARD, "causal", B=1, Q=2048, S=2048, H=2, G=1, D=128, E=128
    ),
    problem("attention", "fp32", Mode.FORWARD, "causal", B=2, Q=1, S=4096, H=8, G=2, D=128, E=128),
    problem("gemm", "bf16", M=512, N=512, K=1024),
)


def _zero_last(output: torch.Tensor) -> torch.Tensor:
    output = output.clone()
    if output.ndim > 1:
        output[(-1,) * (output.ndim - 1)] = 0
    else:
        output[3 * output.numel() // 4 :] = 0
    return output


def _repeat_row(output: torch.Tensor) -> torch.Tensor:
    output = output.clone()
    if output.ndim > 1:
        output[(-1,) * (output.ndim - 1)] = output[(0,) * (output.ndim - 1)]
    else:
        output[1:] = output[:-1].clone()
    return output


def _one_nan(output: torch.Tensor) -> torch.Tensor:
    output = output.clone()
    output.view(-1)[-1] = float("nan")
    return output


def _another_type(output: torch.Tensor) -> torch.Tensor:
    if not output.is_floating_point():
        return output.to(torch.int32 if output.dtype == torch.int64 else torch.int64)
    return output.to(torch.float16 if output.dtype == torch.bfloat16 else torch.bfloat16)


def _wider_type(output: torch.Tensor) -> torch.Tensor:
    return output.to(torch.float64)


def _low_precision(output: torch.Tensor) -> torch.Tensor:
    """fp32 as if kept in bf16; a 16-bit type with the 2 bits after the point of an 8-bit one.

    An 8-bit one is left with none.
    """
    if output.dtype == torch.float32:
        return output.bfloat16().float()
    steps = 8 if output.itemsize > 1 else 2
    mantissa, exponent = torch.frexp(output.float())
    return torch.ldexp(torch.round(mantissa * steps) / steps, exponent).to(output.dtype)


FLOATING_WAYS = (_one_nan, _wider_type, _low_precision)
"""Ways of being wrong that an integer has not, or that are no error in it."""

ROW_WAYS = (_repeat_row,)
"""Ways of being wrong that need two rows, which one number has not, and that differ."""

WAYS = (_zero_last, _repeat_row, _one_nan, _another_type, _wider_type, _low_precision)


def _problems() -> list:
    odd = (
        odd_problem(op, dtype, mode)
        for op in map(registry.load, registry.names())
        for dtype in op.dtypes
        for mode in op.modes
        if not op.is_block
    )
    return [pytest.param(case, id=case.id) for case in (*odd, *REALISTIC)]


def _nearest(reference: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # A conversion to integers cuts off.
    return (reference if dtype.is_floating_point else reference.round()).to(dtype)


def _rounded(case: Problem) -> tuple[Outputs, Outputs]:
    """The fp64 references, and the best that the op's types can give."""
    op = registry.load(case.op)
    references = expected(op, case, inputs_of(op, case))
    return references, tuple(
        _nearest(reference, torch_dtype(tolerance.dtype))
        for reference, tolerance in zip(references, op.tolerance(case), strict=True)
    )


@pytest.mark.parametrize("case", _problems())
def test_every_wrong_output_is_found_out_and_named(case: Problem) -> None:
    tolerances = registry.load(case.op).tolerance(case)
    references, right = _rounded(case)
    assert compare(right, references, tolerances).is_right
    for index, output in enumerate(right):
        for make_wrong in WAYS:
            if make_wrong in FLOATING_WAYS and not output.is_floating_point():
                continue
            if make_wrong in ROW_WAYS and torch.equal(make_wrong(output), output):
                continue
            wrong = (*right[:index], make_wrong(output), *right[index + 1 :])
            found = compare(wrong, references, tolerances)
            assert not found.is_right, f"output {index + 1}: {make_wrong.__name__}"
            assert found.explanation.startswith(f"Output {index + 1} of {len(right)}: ")
            assert [bool(one.faults) for one in found.outputs].count(True) == 1


def test_state_of_an_optimizer_that_is_kept_in_bf16_is_wrong() -> None:
    case = problem("adamw", "bf16", N=2503)
    references, (param, exp_avg, exp_avg_sq, weight) = _rounded(case)
    outputs = (param.bfloat16().float(), exp_avg, exp_avg_sq, weight)
    found = compare(outputs, references, registry.load("adamw").tolerance(case))
    assert found.explanation.startswith("Output 1 of 4: relative error 0.00")
    assert found.explanation.count("Output") == 1


def test_one_query_of_2048_without_a_result_is_wrong() -> None:
    case = problem(
        "attention", "bf16", Mode.FORWARD, "causal", B=1, Q=2048, S=2048, H=4, G=1, D=16, E=16
    )
    op = registry.load("attention")
    references, (output,) = _rounded(case)
    output[0, 0, -1] = 0
    found = compare((output,), references, op.tolerance(case))
    assert found.outputs[0].row_error == pytest.approx(1.0)
    assert "largest row error 1, at most 0.02" in found.explanation
