"""Matrix products of a mixture of experts, y[r] = x[r] @ w[e(r)]^T, with their two gradients.

Shape letters: R routed rows (tokens times experts of each), E experts, N output features, K input
features. Rows are sorted by expert: those of expert e are offsets[e] to offsets[e+1], int32, from
offsets[0] = 0 to offsets[E] = R, which no kernel checks, as it would wait for the device.
    forward  y[R,N]    = x[r] @ w[e(r)]^T          for x[R,K], w[E,N,K]
    dgrad    dx[R,K]   = dy[r] @ w[e(r)]           for dy[R,N]
    wgrad    dw[E,N,K] = dy[e's rows]^T @ x[e's rows], zeros for an expert without rows
Variants are how uneven the experts' rows are: `uniform` differs by at most one row, `zipf` is
proportional to 1 / rank, `one_hot` gives half of all rows to one expert (`kernels/routing.py`).
Counted: 2 R N K FLOPs in every mode. Bytes: the operands read, of w the experts that have rows
only; the result written, of dw all experts; E + 1 offsets read.
The Triton kernels are persistent over all experts' tiles for forward and dgrad, with tensor
descriptors on sm_90 and sm_100 for 16-bit rows of whole 16 bytes, and one program a tile for wgrad.
Products are summed in fp32. fp32 operands are multiplied in fp32, never in tf32.
The torch implementation is `torch._grouped_mm` for bf16 with rows of whole 16 bytes; it does not
take other rows, and for other types it is a loop of products over the experts inside, so that loop
is written out here, and reads the offsets on the host. Only the former can be compiled.
Source: Gale et al. 2022, "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts", section
3, https://arxiv.org/abs/2211.15841.
"""

import torch

from kernels import dtypes, triton_support
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager
from kernels.grouped_gemm.custom_ops import (
    AOT,
    TUNABLES,
    grouped_gemm,
    grouped_gemm_dgrad,
    grouped_gemm_wgrad,
)
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.routing import draw_offsets, row_counts

__all__ = [
    "AOT",
    "OP",
    "TUNABLES",
    "eager",
    "grouped_gemm",
    "grouped_gemm_dgrad",
    "grouped_gemm_wgrad",
]


def _eager_forward(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(x, w.mT, offs=offsets[1:])


def _eager_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(dy, w, offs=offsets[1:])


def _eager_wgrad(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(dy.T, x, offs=offsets[1:])


def _sizes(offsets: torch.Tensor) -> list[int]:
    return offsets.diff().tolist()


def _loop_forward(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    parts = x.split(_sizes(offsets))
    return torch.cat([part @ w[e].T for e, part in enumerate(parts) if len(part)])


def _loop_dgrad(dy: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    parts = dy.split(_sizes(offsets))
    return torch.cat([part @ w[e] for e, part in enumerate(parts) if len(part)])


def _loop_wgrad(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    sizes = _sizes(offsets)
    pairs = zip(dy.split(sizes), x.split(sizes), strict=True)
    return torch.stack([dy_part.T @ x_part for dy_part, x_part in pairs])


def eager(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """y[R,N] from x[R,K], w[E,N,K] and offsets[E+1] as the torch implementation, differentiable."""
    if x.dtype == torch.bfloat16 and w.shape[1] % 8 == 0 and w.shape[2] % 8 == 0:
        return _eager_forward(x, w, offsets)
    # Not w[e], whose gradient would be one of all experts for each.
    pairs = zip(x.split(_sizes(offsets)), w.unbind(), strict=True)
    return torch.cat([part @ one.T for part, one in pairs if len(part)])


_EAGER = {Mode.FORWARD: _eager_forward, Mode.DGRAD: _eager_dgrad, Mode.WGRAD: _eager_wgrad}
_LOOP = {Mode.FORWARD: _loop_forward, Mode.DGRAD: _loop_dgrad, Mode.WGRAD: _loop_wgrad}
_CUSTOM = {
    Mode.FORWARD: grouped_gemm,
    Mode.DGRAD: grouped_gemm_dgrad,
    Mode.WGRAD: grouped_gemm_wgrad,
}
_OPERANDS = {Mode.FORWARD: ("x", "w"), Mode.DGRAD: ("dy", "w"), Mode.WGRAD: ("dy", "x")}


def _operands(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second = _OPERANDS[problem.mode]
    return inputs[first], inputs[second], inputs["offsets"]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,), (dx,) or (dw,), an expert at a time."""
    return (_LOOP[problem.mode](*_operands(problem, inputs)),)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    R, E, N, K = (problem[axis] for axis in ("R", "E", "N", "K"))
    num_active = sum(count > 0 for count in row_counts(problem.variant, R, E))
    read, written = {
        Mode.FORWARD: (R * K + num_active * N * K, R * N),
        Mode.DGRAD: (R * N + num_active * N * K, R * K),
        Mode.WGRAD: (R * N + R * K, E * N * K),
    }[problem.mode]
    size = dtypes.size_bytes(problem.dtype)
    return Cost(
        flops=2 * R * N * K,
        bytes_read=read * size + (E + 1) * dtypes.size_bytes("int32"),
        bytes_written=written * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The two operands of the mode, standard normal, and offsets[E+1] of the variant."""
    R, E, N, K = (problem[axis] for axis in ("R", "E", "N", "K"))
    shapes = {"x": (R, K), "w": (E, N, K), "dy": (R, N)}
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    inputs = {
        name: torch.randn(shapes[name], generator=generator, device=device, dtype=dtype)
        for name in _OPERANDS[problem.mode]
    }
    inputs["offsets"] = draw_offsets(row_counts(problem.variant, R, E), generator)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """As of gemm: one rounding, and the growth of an fp32 sum over the longest reduced axis.

    Weight gradients of the hottest expert are larger than all experts' root mean square.
    """
    R, E = problem["R"], problem["E"]
    most_rows = row_counts(problem.variant, R, E)[0]
    length, excess = {
        Mode.FORWARD: (problem["K"], 1.0),
        Mode.DGRAD: (problem["N"], 1.0),
        Mode.WGRAD: (most_rows, (most_rows * E / R) ** 0.5),
    }[problem.mode]
    error = dtypes.epsilon(problem.dtype) + dtypes.epsilon("fp32") * length**0.5
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=error,
            max_error=16 * error * excess,
            row_error=2 * error,
        ),
    )


def _grouped_mm_unsupported(problem: Problem) -> str | None:
    """Why `torch._grouped_mm` is not used, or None if it is."""
    if problem.dtype != "bf16":
        return "torch._grouped_mm multiplies bf16 only."
    if problem["N"] % 8 or problem["K"] % 8:
        return "torch._grouped_mm takes rows of whole 16 bytes only: N and K in eights for bf16."
    return None


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")
    functions = _EAGER if _grouped_mm_unsupported(problem) is None else _LOOP
    return prepare_eager(functions[problem.mode], _operands(problem, inputs))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return prepare_compiled(_EAGER[problem.mode], _operands(problem, inputs))


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    reason = _grouped_mm_unsupported(problem)
    if reason is not None:
        return f"{reason} A loop over experts has sizes that torch.compile cannot know."
    return compile_unsupported(problem, device)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    function = _CUSTOM[problem.mode]
    first, second, offsets = _operands(problem, inputs)
    return lambda: (function(first, second, offsets),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


OP = Op(
    name="grouped_gemm",
    formula="y[R,N] = x[R,K] @ w[e(r),N,K]^T, rows sorted by E experts",
    source="Gale et al. 2022, section 3, https://arxiv.org/abs/2211.15841",
    axes=("R", "E", "N", "K"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.DGRAD, Mode.WGRAD),
    variants=("uniform", "zipf", "one_hot"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, _compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
