"""Causal attention of multi-head latent attention with its keys in two parts.

Shape letters: B sequences, Q queries, S keys, H heads, N head size of queries and keys without
rotation (128), R of the rotated part (64), V of values (128).
    out[B,H,Q,V] = softmax((q[B,H,Q,:N] @ k_nope[B,H,S,N]^T + q[B,H,Q,N:] @ k_rope[B,S,R]^T)
                           / sqrt(N + R), over visible keys) @ v[B,H,S,V]
All heads share the rotated keys. Queries are the last Q of S positions: query i sees keys
j <= i + S - Q.
Counted: 2 (N + R + V) FLOPs for each visible pair of query and key, of which each of the B H heads
has Q S - Q (Q - 1) / 2; softmax is not counted. Bytes: q, k_nope, k_rope and v read, out written.
The torch implementation joins the keys, which writes and reads [B,H,S,N+R] once more, and calls
scaled_dot_product_attention; the kernel here adds two products and joins nothing.
Source: DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1; DeepSeek-V3,
https://arxiv.org/abs/2412.19437, section 2.1.1; the kernel follows Dao 2023, "FlashAttention-2",
algorithm 1, https://arxiv.org/abs/2307.08691.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from kernels import dtypes, triton_support, tuning
from kernels.compiled import Preparer, product_impls
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.paged import LOG2_E, padded
from kernels.triton_support import AotKernel, cdiv, require_contiguous, require_dtype, tl, triton
from kernels.tuning import Config, Tunable, config

# The widest parts of a head whose accumulators and operands fit a multiprocessor.
_MAX_PART = 128


def _tile(num_warps: int, num_stages: int, queries: int, keys: int) -> Config:
    return config(num_warps, num_stages, BLOCK_M=queries, BLOCK_N=keys)


# The first of a device's own family, else of its wider one, is taken before anything was tuned. 64
# keys and their values of DeepSeek-V3 are 40 KiB of 16-bit numbers, 128 queries 48 KiB. 128 x 64
# takes 183 registers of 256 threads on sm_90; ptxas spills 32 bytes of each thread for sm_80.
_CONFIGS = {
    "sm_90": (_tile(8, 2, 128, 64),),
    "sm_100": (_tile(8, 2, 128, 64),),
    "cuda": (_tile(8, 3, 128, 32), _tile(4, 2, 64, 64), _tile(4, 3, 64, 32)),
    "cuda_99k": (_tile(8, 2, 128, 32), _tile(4, 2, 64, 32)),
    "hip": (_tile(4, 1, 128, 32), _tile(4, 1, 64, 64), _tile(4, 1, 64, 32)),
}
# Multiplied without tensor cores, out of registers.
_TILE_32_BIT = _tile(8, 1, 16, 16)

TUNABLES = (Tunable(kernel="mla_prefill", configs=_CONFIGS),)


@triton.jit
def _attend(
    q_n, q_r, k_n_ptr, k_r_ptr, v_ptr, acc, total, peak, positions, first, last, S, scale_log2,
    N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, WIDTH_N: tl.constexpr, WIDTH_R: tl.constexpr, WIDTH_V: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    # Adds the keys of [first, last) to the running softmax of a block of queries.
    n = tl.arange(0, WIDTH_N)
    r = tl.arange(0, WIDTH_R)
    w = tl.arange(0, WIDTH_V)
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        inside = (keys < S)[:, None]
        k_r = tl.load(k_r_ptr + keys[:, None] * R + r[None, :], mask=inside & (r < R), other=0.0)
        k_n = tl.load(k_n_ptr + keys[:, None] * N + n[None, :], mask=inside & (n < N), other=0.0)
        scores = tl.dot(q_r, tl.trans(k_r), input_precision="ieee")
        scores = tl.dot(q_n, tl.trans(k_n), scores, input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = tl.load(v_ptr + keys[:, None] * V + w[None, :], mask=inside & (w < V), other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def _prefill_kernel(
    q_ptr, k_nope_ptr, k_rope_ptr, v_ptr, out_ptr, H, Q, S, scale_log2,
    N: tl.constexpr, R: tl.constexpr, V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, WIDTH_N: tl.constexpr, WIDTH_R: tl.constexpr, WIDTH_V: tl.constexpr,
):  # fmt: skip
    # One block of queries of one head.
    head = tl.program_id(0).to(tl.int64)
    # The last queries see the most keys; they start first so that the short ones fill the gaps.
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    q_ptr += head * Q * (N + R)
    out_ptr += head * Q * V
    k_nope_ptr += head * S * N
    k_rope_ptr += head // H * S * R
    v_ptr += head * S * V

    rows = start_m + tl.arange(0, BLOCK_M)
    n = tl.arange(0, WIDTH_N)
    r = tl.arange(0, WIDTH_R)
    w = tl.arange(0, WIDTH_V)
    inside = (rows < Q)[:, None]
    q_ptrs = q_ptr + rows[:, None] * (N + R)
    q_n = tl.load(q_ptrs + n[None, :], mask=inside & (n < N), other=0.0)
    q_r = tl.load(q_ptrs + N + r[None, :], mask=inside & (r < R), other=0.0)
    positions = rows + (S - Q)
    first_position = start_m + (S - Q)
    end = tl.minimum(first_position + BLOCK_M, S)
    # Up to here every query of the block sees every key, and no mask is needed.
    full = (first_position + 1) // BLOCK_N * BLOCK_N
    acc = tl.zeros([BLOCK_M, WIDTH_V], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    peak = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    acc, total, peak = _attend(
        q_n, q_r, k_nope_ptr, k_rope_ptr, v_ptr, acc, total, peak, positions, 0, full, S,
        scale_log2, N, R, V, BLOCK_M, BLOCK_N, WIDTH_N, WIDTH_R, WIDTH_V, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        q_n, q_r, k_nope_ptr, k_rope_ptr, v_ptr, acc, total, peak, positions, full, end, S,
        scale_log2, N, R, V, BLOCK_M, BLOCK_N, WIDTH_N, WIDTH_R, WIDTH_V, True,
    )  # fmt: skip
    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + rows[:, None] * V + w[None, :], out, mask=inside & (w < V))


@torch.library.custom_op("chipscale::mla_prefill", mutates_args=())
def mla_prefill(
    q: torch.Tensor, k_nope: torch.Tensor, k_rope: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """out[B,H,Q,V] from q[B,H,Q,N+R], k_nope[B,H,S,N], k_rope[B,S,R] and v[B,H,S,V]."""
    require_contiguous("mla_prefill", q=q, k_nope=k_nope, k_rope=k_rope, v=v)
    require_dtype("mla_prefill", q.dtype, k_nope=k_nope, k_rope=k_rope, v=v)
    shapes = [tuple(tensor.shape) for tensor in (q, k_nope, k_rope, v)]
    is_right = [len(shape) for shape in shapes] == [4, 4, 3, 4]
    if is_right:
        (B, H, Q, width), (S, N), (R, V) = q.shape, k_nope.shape[2:], (k_rope.shape[2], v.shape[3])
        is_right = (
            shapes[1:] == [(B, H, S, N), (B, S, R), (B, H, S, V)] and width == N + R and Q <= S
        )
    if not is_right:
        raise ValueError(
            "mla_prefill: q[B,H,Q,N+R], k_nope[B,H,S,N], k_rope[B,S,R] and v[B,H,S,V] with Q <= S "
            f"are expected, not {', '.join(map(str, shapes))}."
        )
    is_fp32 = q.dtype == torch.float32
    families = triton_support.families(q.device)
    known = next(name for name in families if name in _CONFIGS)
    heuristic = _TILE_32_BIT if is_fp32 else _CONFIGS[known][0]
    chosen = tuning.choose(
        "mla_prefill", q.dtype, heuristic, B=B, Q=Q, S=S, H=H, N=N, R=R, V=V
    )  # fmt: skip
    out = q.new_empty(B, H, Q, V)
    _prefill_kernel[(B * H, cdiv(Q, chosen["BLOCK_M"]))](
        q, k_nope, k_rope, v, out, H, Q, S, (N + R) ** -0.5 * LOG2_E,
        N=N, R=R, V=V, WIDTH_N=padded(N), WIDTH_R=padded(R), WIDTH_V=padded(V), **chosen.launch,
    )  # fmt: skip
    return out


@mla_prefill.register_fake
def _(q: torch.Tensor, k_nope: torch.Tensor, k_rope: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    del k_nope, k_rope
    return q.new_empty(*q.shape[:3], v.shape[3])


def _visible(Q: int, S: int, device: torch.device) -> torch.Tensor:
    """Whether query i sees key j, as [Q,S]."""
    return torch.ones(Q, S, dtype=torch.bool, device=device).tril(S - Q)


def _joined(k_nope: torch.Tensor, k_rope: torch.Tensor) -> torch.Tensor:
    rope = k_rope[:, None].expand(-1, k_nope.shape[1], -1, -1)
    return torch.cat((k_nope, rope), dim=-1)


def _eager_causal(
    q: torch.Tensor, k_nope: torch.Tensor, k_rope: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    return scaled_dot_product_attention(q, _joined(k_nope, k_rope), v, is_causal=True)


def _eager_masked(
    q: torch.Tensor,
    k_nope: torch.Tensor,
    k_rope: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    return scaled_dot_product_attention(q, _joined(k_nope, k_rope), v, attn_mask=mask)


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,), one head at a time so that only one Q x S matrix is held."""
    q, k_nope, k_rope, v = (inputs[name] for name in ("q", "k_nope", "k_rope", "v"))
    B, H, Q, S, N = (problem[axis] for axis in "BHQSN")
    hidden = ~_visible(Q, S, q.device)
    out = q.new_empty(*q.shape[:3], v.shape[3])
    for b in range(B):
        for h in range(H):
            scores = q[b, h, :, :N] @ k_nope[b, h].T + q[b, h, :, N:] @ k_rope[b].T
            scores = (scores * q.shape[3] ** -0.5).masked_fill(hidden, -torch.inf)
            out[b, h] = torch.softmax(scores, dim=-1) @ v[b, h]
    return (out,)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    B, Q, S, H, N, R, V = (problem[axis] for axis in OP.axes)
    size = dtypes.size_bytes(problem.dtype)
    num_pairs = B * H * (Q * S - Q * (Q - 1) // 2)
    num_read = B * (H * Q * (N + R) + H * S * (N + V) + S * R)
    return Cost(
        flops=2 * (N + R + V) * num_pairs,
        bytes_read=num_read * size,
        bytes_written=B * H * Q * V * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Queries, both parts of the keys and values; standard normal."""
    B, Q, S, H, N, R, V = (problem[axis] for axis in OP.axes)
    shapes = {
        "q": (B, H, Q, N + R), "k_nope": (B, H, S, N), "k_rope": (B, S, R), "v": (B, H, S, V),
    }  # fmt: skip
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Probabilities and outputs are rounded once each; sums over S or N + R grow in fp32.

    The first queries average few values and are up to sqrt(Q) times larger than the typical row.
    """
    length = problem["S"] + problem["N"] + problem["R"]
    error = dtypes.epsilon(problem.dtype) + dtypes.epsilon("fp32") * length**0.5
    return (
        Tolerance(
            dtype=problem.dtype,
            relative_error=2 * error,
            max_error=max(8.0, problem["Q"] ** 0.5) * error,
            row_error=3 * error,
        ),
    )


def _prepare(problem: Problem, inputs: Inputs, prepare: Preparer) -> Run:
    operands = (inputs["q"], inputs["k_nope"], inputs["k_rope"], inputs["v"])
    Q, S = problem["Q"], problem["S"]
    if Q == S:
        return prepare(_eager_causal, operands)
    return prepare(_eager_masked, (*operands, _visible(Q, S, operands[0].device)))


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = tuple(inputs[name] for name in ("q", "k_nope", "k_rope", "v"))
    return lambda: (mla_prefill(*operands),)


def _unsupported(problem: Problem, device: torch.device) -> str | None:
    if max(problem[axis] for axis in "NRV") > _MAX_PART:
        return (
            f"Each part of a head is held in registers, which ends at {_MAX_PART} values; "
            f"N={problem['N']} R={problem['R']} V={problem['V']}."
        )
    return triton_support.unsupported(device) or triton_support.bf16_dot_unsupported(problem.dtype)


def _aot(dtype: str, chosen: Config, of_family: str, tunable: str) -> AotKernel:
    pointers = ("q_ptr", "k_nope_ptr", "k_rope_ptr", "v_ptr", "out_ptr")
    constexpr = ("N", "R", "V", "BLOCK_M", "BLOCK_N", "WIDTH_N", "WIDTH_R", "WIDTH_V")
    return AotKernel(
        label=f"mla_prefill {dtype} {chosen}",
        kernel=_prefill_kernel,
        signature={
            **dict.fromkeys(pointers, f"*{dtype}:16"),
            "H": "i32:16", "Q": "i32:16", "S": "i32:16", "scale_log2": "fp32",
            **dict.fromkeys(constexpr, "constexpr"),
        },
        constexprs={
            "N": 128, "R": 64, "V": 128, "WIDTH_N": 128, "WIDTH_R": 64, "WIDTH_V": 128,
            **dict(chosen.blocks),
        },
        num_warps=chosen.num_warps,
        num_stages=chosen.num_stages,
        tunable=tunable,
        families=(of_family,),
    )  # fmt: skip


AOT = (
    *(
        _aot("bf16", chosen, of_family, "mla_prefill")
        for of_family, configs in _CONFIGS.items()
        for chosen in configs
    ),
    *(_aot("fp16", configs[0], of_family, "") for of_family, configs in _CONFIGS.items()),
    *(_aot("fp32", _TILE_32_BIT, of_family, "") for of_family in ("cuda", "cuda_99k", "hip")),
)

OP = Op(
    name="mla_prefill",
    formula="out[B,H,Q,V] = causal softmax(q[B,H,Q,N+R] @ (k_nope[B,H,S,N], k_rope[B,S,R])^T "
    "/ sqrt(N + R)) @ v[B,H,S,V]",
    source="DeepSeek-V2, section 2.1, https://arxiv.org/abs/2405.04434",
    axes=("B", "Q", "S", "H", "N", "R", "V"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        *product_impls(_prepare),
        Impl("triton", _prepare_triton, _unsupported),
    ),
)
