"""Matrix product of a linear layer, with its two gradients, one problem each.

Shape letters: M tokens, N output features, K input features; weights are stored as w[N,K].
    forward  y[M,N]  = x[M,K]  @ w[N,K]^T
    dgrad    dx[M,K] = dy[M,N] @ w[N,K]
    wgrad    dw[N,K] = dy[M,N]^T @ x[M,K]
Counted: 2 M N K FLOPs in every mode; both operands read, the result written.
Products are summed in fp32. fp32 operands are multiplied in fp32 by every implementation, never in
tf32; that is a type of its own here, whose operands are fp32 in memory and keep 10 bits of their
fractions in the product.
Source: GEMM of level-3 BLAS (Dongarra et al. 1990, https://doi.org/10.1145/77626.79170); the order
of tiles as in the matrix multiplication tutorial of Triton,
https://triton-lang.org/main/getting-started/tutorials/03-matrix-multiplication.html.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from kernels import dtypes, triton_support
from kernels.compiled import Eager, compile_unsupported, prepare_compiled, prepare_eager
from kernels.gemm.custom_ops import AOT, TUNABLES, gemm, gemm_dgrad, gemm_wgrad
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance

__all__ = ["AOT", "OP", "TUNABLES", "gemm", "gemm_dgrad", "gemm_wgrad"]

Prepare = Callable[[Problem, Inputs], Run]


def _eager_forward(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.T


def _eager_dgrad(dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return dy @ w


def _eager_wgrad(dy: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return dy.T @ x


_EAGER = {Mode.FORWARD: _eager_forward, Mode.DGRAD: _eager_dgrad, Mode.WGRAD: _eager_wgrad}
_CUSTOM = {Mode.FORWARD: gemm, Mode.DGRAD: gemm_dgrad, Mode.WGRAD: gemm_wgrad}
_OPERANDS = {Mode.FORWARD: ("x", "w"), Mode.DGRAD: ("dy", "w"), Mode.WGRAD: ("dy", "x")}


def _operands(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = _OPERANDS[problem.mode]
    return inputs[first], inputs[second]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,), (dx,) or (dw,)."""
    return (_EAGER[problem.mode](*_operands(problem, inputs)),)


def cost(problem: Problem) -> Cost:
    """2 M N K FLOPs; two of the three matrices read, the third written."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    size = dtypes.size_bytes(problem.dtype)
    written = {Mode.FORWARD: M * N, Mode.DGRAD: M * K, Mode.WGRAD: N * K}[problem.mode]
    return Cost(
        flops=2 * M * N * K,
        bytes_read=(M * N + M * K + N * K - written) * size,
        bytes_written=written * size,
    )


def _shapes(problem: Problem) -> dict[str, tuple[int, int]]:
    M, N, K = problem["M"], problem["N"], problem["K"]
    return {"x": (M, K), "w": (N, K), "dy": (M, N)}


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The two operands of the mode out of x[M,K], w[N,K] and dy[M,N]; standard normal."""
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(_shapes(problem)[name], generator=generator, device=device, dtype=dtype)
        for name in _OPERANDS[problem.mode]
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding of the result, and the growth of an fp32 sum over the reduced axis.

    A row may be a single element, which bears all of its rounding where the norm averages. Sums of
    few terms, as in wgrad with M = 1, reach 30 times their root mean square. Tensor cores drop the
    bits that tf32 has not, 0.7 units of 2^-11 of each operand on average and always downwards, so
    the result is smaller by about as much as two operands lose.
    """
    reduced = {Mode.FORWARD: "K", Mode.DGRAD: "N", Mode.WGRAD: "M"}[problem.mode]
    growth = dtypes.epsilon("fp32") * problem[reduced] ** 0.5
    rounding = dtypes.epsilon(problem.dtype) * (1.25 if problem.dtype == "tf32" else 1)
    error = rounding + growth
    return (
        Tolerance(
            dtype=problem.dtype, relative_error=error, max_error=16 * error, row_error=2 * error
        ),
    )


@contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Products of fp32 matrices in tf32 or in fp32, whatever a library in this process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _prepared(prepare: Callable[[Eager, tuple[torch.Tensor, ...]], Run]) -> Prepare:
    def prepare_at_precision(problem: Problem, inputs: Inputs) -> Run:
        with _precision(problem.dtype):
            run = prepare(_EAGER[problem.mode], _operands(problem, inputs))
        if problem.dtype not in ("fp32", "tf32"):
            return run

        def run_at_precision() -> Outputs:
            with _precision(problem.dtype):
                return run()

        return run_at_precision

    return prepare_at_precision


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    function = _CUSTOM[problem.mode]
    first, second = _operands(problem, inputs)
    if problem.dtype == "tf32":
        return lambda: (function(first, second, True),)
    return lambda: (function(first, second),)


def tf32_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why a product in tf32 cannot run on the device, or None if it can or is of another type."""
    if problem.dtype != "tf32":
        return None
    if device.type != "cuda" or triton_support.is_amd():
        return "tf32 is a type of NVIDIA's tensor cores; use fp32 on this device."
    capability = triton_support.compute_capability(device)
    if capability < (8, 0):
        return "tf32 needs an NVIDIA GPU of compute capability 8.0; use fp32 on this device."
    return None


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    return tf32_unsupported(problem, device) or compile_unsupported(problem, device)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    # The interpreter multiplies in fp32, which is right for tf32 as well.
    wrong_device = None if triton_support.INTERPRETED else tf32_unsupported(problem, device)
    return (
        triton_support.unsupported(device)
        or wrong_device
        or triton_support.bf16_dot_unsupported(problem.dtype)
    )


OP = Op(
    name="gemm",
    formula="y[M,N] = x[M,K] @ w[N,K]^T",
    source="Level-3 BLAS, https://doi.org/10.1145/77626.79170",
    axes=("M", "N", "K"),
    dtypes=("bf16", "fp16", "fp32", "tf32"),
    modes=(Mode.FORWARD, Mode.DGRAD, Mode.WGRAD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepared(prepare_eager), tf32_unsupported),
        Impl("compile", _prepared(prepare_compiled), _compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
