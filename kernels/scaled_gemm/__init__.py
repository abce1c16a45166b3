"""Product of 8-bit matrices with scales: y[M,N] = (x_scale * x[M,K]) @ (w_scale * w[N,K])^T.

Shape letters: M tokens, N output features, K input features; y is bf16, scales are fp32. Variants:
    tensor  one scale for x, one for w
    row     one for each row of x and of w, that is for each token and each output feature
    block   one for each 128 neighbours along K of a row of x, and for each 128 x 128 block of w
Types are fp8 (e4m3) and int8. Sums of int8 are exact in int32. Sums of fp8 are the tensor core's
own in tensor and row, which keeps some 14 bits on sm_90 (`use_fast_accum=True` of torch); in block
they are promoted to fp32 after each 128 of K. Nothing is differentiated: a training step calls this
with other operands for its gradients.
Counted: 2 M N K FLOPs; the multiplications by scales are not counted. Bytes: x, w and their scales
read, y written.
Source: DeepSeek-V3, section 3.3.2, https://arxiv.org/abs/2412.19437; e4m3: Micikevicius et al.
2022, https://arxiv.org/abs/2209.05433.
"""

import torch
from torch.nn.functional import pad

from kernels import dtypes, triton_support
from kernels.compiled import Eager, compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.scaled_gemm.custom_ops import AOT, GROUP, TUNABLES, scaled_gemm
from kernels.triton_support import cdiv

__all__ = ["AOT", "OP", "TUNABLES", "scaled_gemm"]

_OPERANDS = ("x", "w", "x_scale", "w_scale")
_LARGEST = {"fp8": torch.finfo(torch.float8_e4m3fn).max, "int8": 127.0}


def _group(variant: str, operand: str, shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of an operand that share a scale."""
    if variant == "tensor":
        return shape[0], shape[1]
    if variant == "row":
        return 1, shape[1]
    return (GROUP if operand == "w" else 1), GROUP


def _scaled(
    problem: Problem, operand: str, matrix: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    rows, columns = _group(problem.variant, operand, matrix.shape)
    each = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return matrix.to(scale.dtype) * each[: matrix.shape[0], : matrix.shape[1]]


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(y,), from operands that are scaled before they are multiplied."""
    x = _scaled(problem, "x", inputs["x"], inputs["x_scale"])
    w = _scaled(problem, "w", inputs["w"], inputs["w_scale"])
    return (x @ w.T,)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    groups = cdiv(K, GROUP)
    num_scales = {"tensor": 2, "row": M + N, "block": (M + cdiv(N, GROUP)) * groups}
    return Cost(
        flops=2 * M * N * K,
        bytes_read=M * K + N * K + 4 * num_scales[problem.variant],
        bytes_written=2 * M * N,
    )


def _quantized(
    problem: Problem, operand: str, shape: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A standard normal matrix in 8 bits, and scales that let each group fill the type's range."""
    matrix = torch.randn(shape, generator=generator, device=generator.device)
    rows, columns = _group(problem.variant, operand, matrix.shape)
    padded = pad(matrix, (0, -shape[1] % columns, 0, -shape[0] % rows))
    groups = padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    scale = groups.abs().amax(dim=(1, 3)) / _LARGEST[problem.dtype]
    codes = (groups / scale[:, None, :, None]).view(padded.shape)[: shape[0], : shape[1]]
    if problem.dtype == "int8":
        codes = codes.round()
    return codes.to(dtypes.torch_dtype(problem.dtype)).contiguous(), scale


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[M,K], w[N,K] and their scales, quantised from standard normal values."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    x, x_scale = _quantized(problem, "x", (M, K), generator)
    w, w_scale = _quantized(problem, "w", (N, K), generator)
    return {"x": x, "w": w, "x_scale": x_scale, "w_scale": w_scale}


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """One rounding of y to bf16, a few of the scales in fp32, and the sums of fp8.

    sm_90 adds 32 products of fp8 at a time to a sum that it cuts to 14 bits, always towards zero:
    half a unit each, of a sum that on average is less than the last. DeepSeek-V3 saw 2 % for K =
    4096 in the worst element; in the norm it is 0.4 %.
    """
    num_products = GROUP if problem.variant == "block" else problem["K"]
    cut = num_products / 32 * 2.0**-15 if problem.dtype == "fp8" else 0.0
    growth = dtypes.epsilon("fp32") * problem["K"] ** 0.5
    error = dtypes.epsilon("bf16") + cut + growth
    return (
        Tolerance(dtype="bf16", relative_error=error, max_error=16 * error, row_error=2 * error),
    )


def _eager_fp8(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    return torch._scaled_mm(
        x, w.T, x_scale, w_scale.T, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _eager_fp8_block(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    return torch._scaled_mm(x, w.T, x_scale, w_scale.T, out_dtype=torch.bfloat16)


def _eager_int8(
    x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor, w_scale: torch.Tensor
) -> torch.Tensor:
    return (torch._int_mm(x, w.T) * x_scale * w_scale.T).to(torch.bfloat16)


def _operands(problem: Problem, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """The inputs as torch takes them.

    cuBLAS reads scales of blocks with M as the inner axis of x's, and rows of w's whose length is
    a multiple of 4: `scaling-factors-layouts` in https://docs.nvidia.com/cuda/cublas/.
    """
    x, w, x_scale, w_scale = (inputs[name] for name in _OPERANDS)
    if problem.variant == "block":
        x_scale = x_scale.T.contiguous().T
        w_scale = pad(w_scale, (0, -w_scale.shape[1] % 4))[:, : w_scale.shape[1]]
    return x, w, x_scale, w_scale


def _eager(problem: Problem) -> Eager:
    if problem.dtype == "int8":
        return _eager_int8
    return _eager_fp8_block if problem.variant == "block" else _eager_fp8


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    return prepare_eager(_eager(problem), _operands(problem, inputs))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    return prepare_compiled(_eager(problem), _operands(problem, inputs))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, w, x_scale, w_scale = (inputs[name] for name in _OPERANDS)
    return lambda: (scaled_gemm(x, w, x_scale, w_scale),)


def _fp8_unsupported(problem: Problem, device: torch.device) -> str | None:
    if problem.dtype != "fp8" or device.type != "cuda":
        return None
    if triton_support.is_amd():
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        if name.startswith("gfx94"):
            return f"{name} multiplies fp8 of the FNUZ form only; use int8."
        return None
    if triton_support.compute_capability(device) < (8, 9):
        return "fp8 needs an NVIDIA GPU of compute capability 8.9; use int8."
    return None


def torch_unsupported(problem: Problem, device: torch.device) -> str | None:
    """Why torch has no product for the problem on the device, or None if it has one."""
    M, N, K = problem["M"], problem["N"], problem["K"]
    is_cuda = device.type == "cuda"
    if problem.variant == "block":
        if problem.dtype == "int8":
            return "torch has no product of int8 with scales in blocks."
        if not is_cuda or triton_support.compute_capability(device)[0] != 9:
            return "torch multiplies fp8 with scales in blocks on sm_90 only."
        if M % 4 or N % GROUP or K % GROUP:
            return (
                "torch multiplies fp8 with scales in blocks for multiples of 4 in M and of 128 in "
                f"N and K, not M={M} N={N} K={K}."
            )
    if problem.dtype == "int8" and is_cuda and (M <= 16 or N % 8 or K % 8):
        return (
            f"torch._int_mm takes M over 16 and multiples of 8 in N and K, not M={M} N={N} K={K}."
        )
    if problem.dtype == "fp8" and is_cuda and (N % 16 or K % 16):
        return f"torch._scaled_mm takes multiples of 16 in N and K, not N={N} K={K}."
    return _fp8_unsupported(problem, device)


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    return torch_unsupported(problem, device) or compile_unsupported(problem, device)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or _fp8_unsupported(problem, device)


OP = Op(
    name="scaled_gemm",
    formula="y[M,N] = (x_scale * x[M,K]) @ (w_scale * w[N,K])^T",
    source="DeepSeek-V3, section 3.3.2, https://arxiv.org/abs/2412.19437",
    axes=("M", "N", "K"),
    dtypes=("fp8", "int8"),
    modes=(Mode.FORWARD,),
    variants=("tensor", "row", "block"),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch, torch_unsupported),
        Impl("compile", _prepare_compile, _compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
    fixed=("x_scale", "w_scale"),
)
