"""Output head with its loss: loss[T] = cross_entropy(x[T,H] @ w[V,H]^T, targets[T]).

Shape letters: T tokens, H hidden size, V vocabulary. targets[T] are int64 in [0, V). The loss is
fp32, one value per token, as that of `cross_entropy`. Backward, from dloss[T] in fp32:
    g[T,V] = (exp(logits - lse) - onehot(targets)) * dloss,  dx = g @ w,  dw = g^T @ x.
The Triton implementation never holds the T x V logits. Forward, a tile of logits is reduced in
registers to the maximum and the sum of each of its rows, so that only T V / BLOCK_N pairs are
written. Backward, g is recomputed for a chunk of the vocabulary at a time, at most 256 MiB of it,
in the type of the operands; a row of dw is then complete, and dx is summed over chunks in fp32.
Fused into one kernel, the sums over V and over T would need atomic additions, whose order differs
from run to run; chunks of tokens would keep dw[V,H] in fp32, 4.2 GB for Llama-3.1 8B and 70B, where
chunks of the vocabulary keep dx[T,H]. At T = 8192, H = 8192, V = 128256 in bf16 the backward pass
multiplies 52 TFLOP, some 80 ms of an H200 at 650 TFLOP/s; g written once and read twice and the
sums of dx move 10 GB, 2 ms at 4.8 TB/s. The implementations `torch` and `compile` hold all T x V
logits and their gradient.
Counted: forward 2 T H V FLOPs; backward 4 T H V, the recomputed logits not counted. Bytes: forward
x, w and targets read, loss written; backward those and dloss read, dx and dw written; lse is an
implementation's own.
Source: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models",
https://arxiv.org/abs/2411.09009; in chunks: Hsu et al. 2024, "Liger Kernel", section 3.2,
https://arxiv.org/abs/2410.10989.
"""

import math
from typing import Any

import torch

from kernels import dtypes, triton_support, tuning
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager, reference_from
from kernels.op import Cost, Impl, Inputs, Mode, Op, Problem, Run, Tolerance
from kernels.tiles import GROUP_ROWS, heuristic, tile_at, tile_config
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype, tl, triton
from kernels.tuning import Config, Tunable

# Largest first. A stage takes (BLOCK_M + BLOCK_N) * BLOCK_K * 2 bytes of shared memory, 128 KiB in
# all for the first.
_CUDA = (
    tile_config(8, 4, 128, 128, 64),
    tile_config(4, 4, 64, 64, 64),
)
# 128 x 256 holds 128 logits of each thread in registers, and 144 KiB of shared memory with a depth
# of 64. With the sums of dx, sm_80 would spill 56 bytes a thread of it, sm_100 264.
_SM_90 = (
    tile_config(8, 3, 128, 256, 64),
    tile_config(8, 4, 128, 256, 32),
    *_CUDA,
)
_CUDA_99K = (
    tile_config(8, 3, 128, 128, 64),
    tile_config(8, 3, 128, 128, 32),
    tile_config(4, 3, 64, 64, 64),
)
# Two stages hold one tile in LDS while the next is in registers.
_HIP = (
    tile_config(8, 2, 128, 256, 32),
    tile_config(8, 2, 128, 128, 64),
    tile_config(4, 2, 64, 64, 64),
)
# There is no tensor core for fp32 without tf32: larger tiles would not fit the registers.
_FP32 = tile_config(8, 2, 64, 64, 16)

_FAMILIES = {"sm_90": _SM_90, "cuda": _CUDA, "cuda_99k": _CUDA_99K, "hip": _HIP}
_KERNELS = ("forward", "dlogits", "product")

TUNABLES = tuple(
    Tunable(
        kernel=f"linear_cross_entropy.{name}",
        configs={family: (*configs, _FP32) for family, configs in _FAMILIES.items()},
    )
    for name in _KERNELS
)

# 16384 columns of 8192 tokens in 16 bits: 8 chunks for a vocabulary of 128256. Each chunk more
# reads and writes the fp32 sums of dx once more.
_CHUNK_BYTES = 256 * 2**20
_CHUNK_MULTIPLE = 256

# Tokens and tiles of a program that combines what the tiles found.
_COMBINE_TOKENS = 32
_COMBINE_TILES = 32

# A finite number below any logit.
_LOWEST = tl.constexpr(-1e38)

# As of `cross_entropy`: with 3 the probabilities are uneven enough to show when they are wrong.
_LOGIT_SCALE = 3.0


@triton.jit
def _tile_of_program(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    # First row and first column, in 64 bits.
    tile_m, tile_n = tile_at(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    return tile_m.to(tl.int64) * BLOCK_M, tile_n.to(tl.int64) * BLOCK_N


@triton.jit
def _multiply(
    a_ptr, b_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, start_m, start_n, c,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # One tile of a[M,K] @ b[K,N], added to c in fp32.
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    mask_m = m < M - start_m
    mask_n = n < N - start_n
    a_ptrs = a_ptr + start_m * stride_am + (m[:, None] * stride_am + k[None, :] * stride_ak)
    b_ptrs = b_ptr + start_n * stride_bn + (k[:, None] * stride_bk + n[None, :] * stride_bn)
    for start_k in range(0, K, BLOCK_K):
        mask_k = k < K - start_k
        a = tl.load(a_ptrs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        c = tl.dot(a, b, c, input_precision="ieee")
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
    return c


@triton.jit
def _forward_kernel(
    x_ptr, w_ptr, targets_ptr, peak_ptr, total_ptr, target_logit_ptr, T, V, H,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    start_m, start_n = _tile_of_program(T, V, BLOCK_M, BLOCK_N, GROUP_M)
    logits = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    logits = _multiply(
        x_ptr, w_ptr, T, V, H, H, 1, 1, H, start_m, start_n, logits, BLOCK_M, BLOCK_N, BLOCK_K
    )
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    mask_m = m < T - start_m
    logits = tl.where((n < V - start_n)[None, :], logits, -float("inf"))
    peak = tl.max(logits, axis=1)
    total = tl.sum(tl.exp(logits - peak[:, None]), axis=1)
    # [V / BLOCK_N, T], so that a tile writes next to each other.
    found = start_n // BLOCK_N * T + start_m
    tl.store(peak_ptr + found + m, peak, mask=mask_m)
    tl.store(total_ptr + found + m, total, mask=mask_m)
    # One tile holds the target of a token, so nobody else writes its logit.
    target = tl.load(targets_ptr + start_m + m, mask=mask_m, other=-1) - start_n
    target_logit = tl.sum(tl.where(n[None, :] == target[:, None], logits, 0.0), axis=1)
    is_here = (target >= 0) & (target < BLOCK_N)
    tl.store(target_logit_ptr + start_m + m, target_logit, mask=mask_m & is_here)


@triton.jit
def _combine_kernel(
    peak_ptr, total_ptr, target_logit_ptr, loss_ptr, lse_ptr, T, num_tiles,
    BLOCK_T: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    mask_t = tokens < T
    tiles = tl.arange(0, BLOCK_TILES).to(tl.int64)
    peak = tl.full([BLOCK_T], _LOWEST, dtype=tl.float32)
    total = tl.zeros([BLOCK_T], dtype=tl.float32)
    for first in range(0, num_tiles, BLOCK_TILES):
        mask = (tiles < num_tiles - first)[:, None] & mask_t[None, :]
        offsets = (first + tiles)[:, None] * T + tokens[None, :]
        # Finite where there is no tile or no token, so that no difference of infinities arises.
        one_peak = tl.load(peak_ptr + offsets, mask=mask, other=_LOWEST)
        one_total = tl.load(total_ptr + offsets, mask=mask, other=0.0)
        new_peak = tl.maximum(peak, tl.max(one_peak, axis=0))
        total *= tl.exp(peak - new_peak)
        total += tl.sum(one_total * tl.exp(one_peak - new_peak[None, :]), axis=0)
        peak = new_peak
    lse = peak + tl.log(tl.where(mask_t, total, 1.0))
    tl.store(lse_ptr + tokens, lse, mask=mask_t)
    target_logit = tl.load(target_logit_ptr + tokens, mask=mask_t, other=0.0)
    tl.store(loss_ptr + tokens, lse - target_logit, mask=mask_t)


@triton.jit
def _dlogits_kernel(
    dloss_ptr, x_ptr, w_ptr, targets_ptr, lse_ptr, g_ptr, T, C, H, first_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    # g[T,C] of C columns of the vocabulary; w starts at the first of them.
    start_m, start_n = _tile_of_program(T, C, BLOCK_M, BLOCK_N, GROUP_M)
    logits = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    logits = _multiply(
        x_ptr, w_ptr, T, C, H, H, 1, 1, H, start_m, start_n, logits, BLOCK_M, BLOCK_N, BLOCK_K
    )
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    mask_m = m < T - start_m
    mask_n = n < C - start_n
    dloss = tl.load(dloss_ptr + start_m + m, mask=mask_m, other=0.0)
    lse = tl.load(lse_ptr + start_m + m, mask=mask_m, other=0.0)
    target = tl.load(targets_ptr + start_m + m, mask=mask_m, other=-1) - first_column - start_n
    onehot = tl.where(n[None, :] == target[:, None], 1.0, 0.0)
    g = (tl.exp(logits - lse[:, None]) - onehot) * dloss[:, None]
    g_ptrs = g_ptr + start_m * C + start_n + (m[:, None] * C + n[None, :])
    tl.store(g_ptrs, g.to(g_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def _product_kernel(
    a_ptr, b_ptr, sum_ptr, c_ptr, M, N, K, stride_am, stride_ak, HAS_SUM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    # c[M,N] = a[M,K] @ b[K,N], and the sum so far, which may be c itself; a with any strides.
    start_m, start_n = _tile_of_program(M, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    mask = (m < M - start_m)[:, None] & (n < N - start_n)[None, :]
    first = start_m * N + start_n
    offsets = m[:, None] * N + n[None, :]
    # Read before the loop: after it, the tile and its sum would both want the registers, and
    # 112 bytes of a thread of 128 x 256 are spilled on sm_90.
    if HAS_SUM:
        c = tl.load(sum_ptr + first + offsets, mask=mask, other=0.0)
    else:
        c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    c = _multiply(
        a_ptr, b_ptr, M, N, K, stride_am, stride_ak, N, 1, start_m, start_n, c,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    tl.store(c_ptr + first + offsets, c.to(c_ptr.dtype.element_ty), mask=mask)


def _choose(name: str, like: torch.Tensor, M: int, N: int, K: int) -> Config:
    best = _FP32
    if like.dtype != torch.float32:
        names = triton_support.families(like.device)
        configs = next(_FAMILIES[family] for family in names if family in _FAMILIES)
        best = heuristic(configs, M, N, triton_support.num_multiprocessors(like.device))
    return tuning.choose(f"linear_cross_entropy.{name}", like.dtype, best, M=M, N=N, K=K)


def _num_tiles(chosen: Config, M: int, N: int) -> int:
    return cdiv(M, chosen["BLOCK_M"]) * cdiv(N, chosen["BLOCK_N"])


def _product(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, so_far: torch.Tensor | None = None
) -> None:
    (M, K), N = a.shape, b.shape[1]
    chosen = _choose("product", b, M, N, K)
    _product_kernel[(_num_tiles(chosen, M, N),)](
        a, b, out if so_far is None else so_far, out, M, N, K, a.stride(0), a.stride(1),
        HAS_SUM=so_far is not None, GROUP_M=GROUP_ROWS, **chosen.launch,
    )  # fmt: skip


def _check(
    x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, **per_token: torch.Tensor
) -> None:
    require_contiguous("linear_cross_entropy", x=x, w=w, targets=targets, **per_token)
    require_dtype("linear_cross_entropy", x.dtype, w=w)
    require_dtype("linear_cross_entropy", torch.float32, **per_token)
    if targets.dtype != torch.int64:
        raise ValueError(
            f"linear_cross_entropy: targets are {targets.dtype}, but must be torch.int64."
        )
    shapes = tuple(tuple(tensor.shape) for tensor in (x, w, targets))
    is_right = x.ndim == w.ndim == 2 and x.shape[1] == w.shape[1]
    if not is_right or targets.shape != x.shape[:1]:
        raise ValueError(
            "linear_cross_entropy: x[T,H], w[V,H] and targets[T] are expected, "
            f"not {shapes[0]}, {shapes[1]} and {shapes[2]}."
        )
    for name, tensor in per_token.items():
        if tensor.shape != targets.shape:
            raise ValueError(
                f"linear_cross_entropy: {name}[{len(targets)}] is expected, "
                f"not {tuple(tensor.shape)}."
            )


@torch.library.custom_op("chipscale::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss[T], lse[T]) in fp32 from x[T,H], w[V,H] and targets[T]; only loss has a gradient."""
    _check(x, w, targets)
    (T, H), V = x.shape, w.shape[0]
    loss, lse, target_logit = (x.new_empty(T, dtype=torch.float32) for _ in range(3))
    chosen = _choose("forward", x, T, V, H)
    num_tiles = cdiv(V, chosen["BLOCK_N"])
    peak, total = (x.new_empty(num_tiles, T, dtype=torch.float32) for _ in range(2))
    _forward_kernel[(_num_tiles(chosen, T, V),)](
        x, w, targets, peak, total, target_logit, T, V, H, GROUP_M=GROUP_ROWS, **chosen.launch
    )
    _combine_kernel[(cdiv(T, _COMBINE_TOKENS),)](
        peak, total, target_logit, loss, lse, T, num_tiles,
        BLOCK_T=_COMBINE_TOKENS, BLOCK_TILES=_COMBINE_TILES, num_warps=4,
    )  # fmt: skip
    return loss, lse


@linear_cross_entropy.register_fake
def _(x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    del w, targets
    loss = x.new_empty(x.shape[0], dtype=torch.float32)
    return loss, torch.empty_like(loss)


def _chunk_columns(T: int, V: int, size_bytes: int) -> int:
    """Columns of the vocabulary whose gradients are held at once."""
    columns = _CHUNK_BYTES // (T * size_bytes) // _CHUNK_MULTIPLE * _CHUNK_MULTIPLE
    return min(V, max(columns, _CHUNK_MULTIPLE))


@torch.library.custom_op("chipscale::linear_cross_entropy_backward", mutates_args=())
def linear_cross_entropy_backward(
    dloss: torch.Tensor, x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(dx[T,H], dw[V,H]) from dloss[T], the operands, and lse[T] of the forward pass."""
    _check(x, w, targets, dloss=dloss, lse=lse)
    (T, H), V = x.shape, w.shape[0]
    dx, dw = torch.empty_like(x), torch.empty_like(w)
    columns = _chunk_columns(T, V, x.itemsize)
    buffer = x.new_empty(T * columns)
    # In fp32 where there are several terms, the last of which is written as dx.
    so_far = x.new_empty(T, H, dtype=torch.float32) if columns < V else None
    for first in range(0, V, columns):
        chunk = w[first : first + columns]
        C = chunk.shape[0]
        g = buffer[: T * C].view(T, C)
        chosen = _choose("dlogits", x, T, C, H)
        _dlogits_kernel[(_num_tiles(chosen, T, C),)](
            dloss, x, chunk, targets, lse, g, T, C, H, first,
            GROUP_M=GROUP_ROWS, **chosen.launch,
        )  # fmt: skip
        out = dx if so_far is None or first + C == V else so_far
        _product(g, chunk, out, so_far if first else None)
        _product(g.T, x, dw[first : first + C])
    return dx, dw


@linear_cross_entropy_backward.register_fake
def _(
    dloss: torch.Tensor, x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, lse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    del dloss, targets, lse
    return torch.empty_like(x), torch.empty_like(w)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    _, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(*inputs, lse)


def _backward(
    ctx: Any, dloss: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, None]:
    del dlse
    x, w, targets, lse = ctx.saved_tensors
    return *linear_cross_entropy_backward(dloss.contiguous(), x, w, targets, lse), None


linear_cross_entropy.register_autograd(_backward, setup_context=_save)


def _eager(x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = (x @ w.T).float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def _formula(x: torch.Tensor, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = x @ w.T
    return logits.logsumexp(dim=1) - logits.gather(1, targets[:, None])[:, 0]


_OPERANDS = ("x", "w", "targets")

reference = reference_from(_formula, _OPERANDS, "dloss")


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T, H, V = problem["T"], problem["H"], problem["V"]
    operand_bytes = (T * H + V * H) * dtypes.size_bytes(problem.dtype)
    targets_bytes, token_bytes = 8 * T, 4 * T
    if problem.mode == Mode.FORWARD:
        return Cost(
            flops=2 * T * H * V,
            bytes_read=operand_bytes + targets_bytes,
            bytes_written=token_bytes,
        )
    return Cost(
        flops=4 * T * H * V,
        bytes_read=operand_bytes + targets_bytes + token_bytes,
        bytes_written=operand_bytes,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """x[T,H], w[V,H], targets[T] and for the backward mode dloss[T]; logits of deviation 3."""
    T, H, V = problem["T"], problem["H"], problem["V"]
    device = generator.device
    dtype = dtypes.torch_dtype(problem.dtype)
    inputs = {
        "x": torch.randn(T, H, generator=generator, device=device, dtype=dtype),
        "w": torch.randn(V, H, generator=generator, device=device, dtype=dtype),
        "targets": torch.randint(V, (T,), generator=generator, device=device),
    }
    inputs["w"].mul_(_LOGIT_SCALE * H**-0.5)
    if problem.mode == Mode.BACKWARD:
        inputs["dloss"] = torch.randn(T, generator=generator, device=device)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Forward one rounding of the logits, which eager torch keeps in the type; backward also of g.

    A logit of deviation 3 is rounded by 0.2 epsilon of itself, root mean square, once as the target
    and once, weighted, in the sum; the loss is log V + 9 / 2 as the mean. The largest of them is 5
    deviations, rounded by half an epsilon. The sums in fp32 are over H, then over V or T.
    """
    T, H, V = problem["T"], problem["H"], problem["V"]
    epsilon = dtypes.epsilon(problem.dtype)
    growth = dtypes.epsilon("fp32") * (4 + max(H, V, T) ** 0.5)
    if problem.mode == Mode.FORWARD:
        share = _LOGIT_SCALE / (math.log(V) + _LOGIT_SCALE**2 / 2)
        relative = 0.45 * epsilon * share + growth
        loss = Tolerance(
            dtype="fp32",
            relative_error=relative,
            max_error=5 * epsilon * share + 8 * growth,
            row_error=relative,
        )
        return (loss,)
    # A rounded logit changes its probability by as much as 3 times the rounding.
    error = (1 + _LOGIT_SCALE) * epsilon / 2 + growth
    return tuple(
        Tolerance(
            dtype=problem.dtype,
            relative_error=error,
            # Rows of dw without a target are small, so a single element is held to a few typical
            # ones of those with one.
            max_error=8 * error * max(1.0, (V / T) ** 0.5 if name == "dw" else 1.0),
            row_error=3 * error,
        )
        for name in ("dx", "dw")
    )


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    torch.set_float32_matmul_precision("highest")
    tensors = tuple(inputs[name] for name in _OPERANDS)
    return prepare_eager(_eager, tensors, inputs.get("dloss"))


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    torch.set_float32_matmul_precision("highest")
    tensors = tuple(inputs[name] for name in _OPERANDS)
    return prepare_compiled(_eager, tensors, inputs.get("dloss"))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    x, w, targets = (inputs[name] for name in _OPERANDS)
    if problem.mode == Mode.FORWARD:
        return lambda: (linear_cross_entropy(x, w, targets)[0],)
    dloss = inputs["dloss"]
    _, lse = linear_cross_entropy(x, w, targets)
    return lambda: linear_cross_entropy_backward(dloss, x, w, targets, lse)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


_BLOCKS = dict.fromkeys(("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP_M"), "constexpr")
_SIZES = dict.fromkeys(("T", "V", "H"), "i32:16")


def _aot(
    name: str, label: str, dtype: str, chosen: Config, families: tuple[str, ...], **unit: int
) -> AotKernel:
    """A kernel that multiplies; `unit` are arguments that are constants of a launch."""
    operand = f"*{dtype}:16"
    kernel, signature = {
        "forward": (
            _forward_kernel,
            {"x_ptr": operand, "w_ptr": operand, "targets_ptr": "*i64:16"}
            | dict.fromkeys(("peak_ptr", "total_ptr", "target_logit_ptr"), "*fp32:16")
            | _SIZES,
        ),
        "dlogits": (
            _dlogits_kernel,
            {"dloss_ptr": "*fp32:16", "x_ptr": operand, "w_ptr": operand, "targets_ptr": "*i64:16"}
            | {"lse_ptr": "*fp32:16", "g_ptr": operand}
            | dict.fromkeys(("T", "C", "H", "first_column"), "i32:16"),
        ),
        "product": (
            _product_kernel,
            {"a_ptr": operand, "b_ptr": operand, "sum_ptr": "*fp32:16"}
            # Of dx while it is summed, otherwise of the result in its type.
            | {"c_ptr": "*fp32:16" if unit.get("HAS_SUM") else operand}
            | dict.fromkeys(("M", "N", "K", "stride_am", "stride_ak"), "i32:16")
            | {"HAS_SUM": "constexpr"},
        ),
    }[name]
    return AotKernel(
        label=f"linear_cross_entropy {label} {dtype} {chosen}",
        kernel=kernel,
        signature=signature | dict.fromkeys(unit, "constexpr") | _BLOCKS,
        constexprs=unit | dict(chosen.blocks) | {"GROUP_M": GROUP_ROWS},
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        tunable=f"linear_cross_entropy.{name}",
        families=families,
    )


def _aot_of(chosen: Config, dtype: str, families: tuple[str, ...]) -> tuple[AotKernel, ...]:
    return (
        _aot("forward", "forward", dtype, chosen, families),
        _aot("dlogits", "dlogits", dtype, chosen, families),
        _aot("product", "dx", dtype, chosen, families, HAS_SUM=True, stride_ak=1),
        _aot("product", "dw", dtype, chosen, families, HAS_SUM=False, stride_am=1),
    )


AOT = (
    # The tiles are the same for all kernels.
    *(
        kernel
        for chosen, families in TUNABLES[0].families.items()
        for kernel in _aot_of(chosen, "fp32" if chosen == _FP32 else "bf16", families)
    ),
    AotKernel(
        label="linear_cross_entropy combine",
        kernel=_combine_kernel,
        signature={
            **dict.fromkeys(
                ("peak_ptr", "total_ptr", "target_logit_ptr", "loss_ptr", "lse_ptr"), "*fp32:16"
            ),
            "T": "i32:16", "num_tiles": "i32", "BLOCK_T": "constexpr", "BLOCK_TILES": "constexpr",
        },
        constexprs={"BLOCK_T": _COMBINE_TOKENS, "BLOCK_TILES": _COMBINE_TILES},
        num_warps=4,
        num_stages=3,
    ),
)  # fmt: skip

OP = Op(
    name="linear_cross_entropy",
    formula="loss[T] = cross_entropy(x[T,H] @ w[V,H]^T, targets[T])",
    source="Wijmans et al. 2024, https://arxiv.org/abs/2411.09009",
    axes=("T", "H", "V"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, compile_unsupported),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
