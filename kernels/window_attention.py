"""Attention in a sliding window: causal, and a query sees only the last W keys.

Shape letters: B batch, Q queries, S keys, H query heads, G key/value heads (H is a multiple of G),
D query/key head size, E value head size, W keys of the window.
    out[B,H,Q,E] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D), over the last W visible keys)
                   @ v[B,G,S,E]
Query i stands at p = i + S - Q and sees the keys j with p - W < j <= p, itself included. W >= S is
causal attention. Heads, groups and positions are those of `attention`.
Counted: 2 (D + E) FLOPs for each visible pair of query and key, in each of the B H heads the sum of
min(W, i + S - Q + 1) over the queries; softmax is not counted. The backward pass counts twice that.
Bytes: q, k, v (and dout) read, out (or dq, dk, dv) written; of k and v all S rows, though the first
S - Q - W + 1 are seen by no query if that is positive.
Source: Beltagy et al. 2020, "Longformer", https://arxiv.org/abs/2004.05150; causal with W = 4096 in
Jiang et al. 2023, "Mistral 7B", https://arxiv.org/abs/2310.06825; W = 128 in gpt-oss,
https://arxiv.org/abs/2508.10925. The kernels are those of `attention`, which skip the blocks of
keys and queries outside the window.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from kernels import attention, dtypes
from kernels.attention.custom_ops import (
    Sizes,
    check,
    described_all,
    described_delta,
    heads_of,
    launch_backward,
    launch_forward,
)
from kernels.attention.tiles import tunables
from kernels.attention.triton_kernels import (
    delta_kernel,
    dkdv_kernel,
    dq_kernel,
    forward_kernel,
)
from kernels.compiled import compile_unsupported, prepare_compiled, prepare_eager
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, problem
from kernels.triton_support import require_dtype

__all__ = ["AOT", "OP", "TUNABLES", "delta_kernel", "dkdv_kernel", "dq_kernel", "forward_kernel"]


def _sizes(
    window: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **others: torch.Tensor
) -> Sizes:
    if window < 1:
        raise ValueError(f"window_attention: W is {window}, but a query sees at least one key.")
    return replace(check("window_attention", q, k, v, **others), window=window)


@torch.library.custom_op("chipscale::window_attention", mutates_args=())
def window_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out[B,H,Q,E], lse[B,H,Q] in fp32); only out has a gradient."""
    return launch_forward(_sizes(window, q, k, v), q, k, v)


@window_attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int
) -> tuple[torch.Tensor, torch.Tensor]:
    del k, window
    B, H, Q, _ = q.shape
    return q.new_empty(B, H, Q, v.shape[3]), q.new_empty(B, H, Q, dtype=torch.float32)


@torch.library.custom_op("chipscale::window_attention_backward", mutates_args=())
def window_attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dq, dk, dv) from dout, the operands, and out and lse of the forward pass."""
    require_dtype("window_attention", q.dtype, dout=dout, out=out)
    sizes = _sizes(window, q, k, v, dout=dout, out=out, lse=lse)
    return launch_backward(sizes, dout, q, k, v, out, lse)


@window_attention_backward.register_fake
def _(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    del dout, out, lse, window
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: Any,
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int],
    output: tuple[torch.Tensor, torch.Tensor],
) -> None:
    *operands, ctx.window = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*operands, *output)


def _backward(
    ctx: Any, dout: torch.Tensor, dlse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
    del dlse
    dq, dk, dv = window_attention_backward(dout.contiguous(), *ctx.saved_tensors, ctx.window)
    return dq, dk, dv, None


window_attention.register_autograd(_backward, setup_context=_save)


def _visible(problem: Problem, device: torch.device) -> torch.Tensor:
    """Whether query i sees key j, as [Q,S]."""
    Q, S = problem["Q"], problem["S"]
    seen = torch.ones(Q, S, dtype=torch.bool, device=device)
    return seen.tril(S - Q).triu(S - Q - problem["W"] + 1)


def _eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    is_grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=is_grouped)


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """(out,) or (dq, dk, dv)."""
    return attention.by_head(problem, inputs, _visible(problem, inputs["q"].device))


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    Q, S, W = problem["Q"], problem["S"], problem["W"]
    # The first queries see fewer keys than the window: S - Q + 1 and one more each, below W.
    num_short = min(max(W - 1 - (S - Q), 0), Q)
    pairs = num_short * (S - Q) + num_short * (num_short + 1) // 2 + (Q - num_short) * W
    return attention.counted(problem, pairs)


def _gradient(problem: Problem, inputs: Inputs) -> torch.Tensor | None:
    return inputs["dout"] if problem.mode == Mode.BACKWARD else None


def _prepare_masked(problem: Problem, inputs: Inputs, *, is_compiled: bool) -> Run:
    # A library in the same process may have allowed tf32, and fp32 here means fp32.
    torch.set_float32_matmul_precision("highest")
    prepare = prepare_compiled if is_compiled else prepare_eager
    operands = inputs["q"], inputs["k"], inputs["v"], _visible(problem, inputs["q"].device)
    return prepare(_eager, operands, _gradient(problem, inputs))


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    return _prepare_masked(problem, inputs, is_compiled=False)


def _prepare_flex(problem: Problem, inputs: Inputs) -> Run:
    torch.set_float32_matmul_precision("highest")
    q, k, v, window = inputs["q"], inputs["k"], inputs["v"], problem["W"]
    Q, S = problem["Q"], problem["S"]
    is_grouped = problem["H"] != problem["G"]

    def seen(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        del batch, head
        position = query + (S - Q)
        return (key <= position) & (key > position - window)

    blocks = create_block_mask(seen, None, None, Q, S, device=q.device)

    def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = flex_attention(q, k, v, block_mask=blocks, enable_gqa=is_grouped)
        assert isinstance(out, torch.Tensor)
        return out

    return prepare_compiled(eager, (q, k, v), _gradient(problem, inputs))


def _uses_flex(device: torch.device) -> bool:
    return device.type == "cuda"


@cache
def _flex_fails(
    device: torch.device, dtype: str, mode: Mode, D: int, E: int, group_size: int
) -> str | None:
    """How flex_attention fails on a small problem with heads of that kind, or None.

    What it can lower depends on the type, the heads and the release: its tiles may need more shared
    memory than there is.
    """
    sizes = {"B": 1, "Q": 256, "S": 256, "H": group_size, "G": 1, "D": D, "E": E, "W": 100}
    small = problem("window_attention", dtype, mode, **sizes)
    inputs = OP.make_inputs(small, torch.Generator(device).manual_seed(0))
    try:
        _prepare_flex(small, inputs)()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # Nothing of the operator, but of the device.
    except Exception as error:  # a compiler may raise anything; it becomes the reason
        first_line = next(iter(str(error).strip().splitlines()), "no message")
        return f"flex_attention fails on this device: {type(error).__name__}: {first_line}."
    return None


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    if _uses_flex(inputs["q"].device):
        return _prepare_flex(problem, inputs)
    return _prepare_masked(problem, inputs, is_compiled=True)


def _compile_unsupported(problem: Problem, device: torch.device) -> str | None:
    reason = compile_unsupported(problem, device)
    if reason is not None or not _uses_flex(device):
        return reason
    D, E, group_size = problem["D"], problem["E"], problem["H"] // problem["G"]
    return _flex_fails(device, problem.dtype, problem.mode, D, E, group_size)


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    q, k, v, window = inputs["q"], inputs["k"], inputs["v"], problem["W"]
    if problem.mode == Mode.FORWARD:
        return lambda: (window_attention(q, k, v, window)[0],)
    dout = inputs["dout"]
    out, lse = window_attention(q, k, v, window)
    return lambda: window_attention_backward(dout, q, k, v, out, lse, window)


_HEADS = {
    size: replace(heads_of("window_attention", size, size), window=128) for size in (64, 128, 256)
}

AOT = (
    described_delta(_HEADS[128]),
    *described_all(_HEADS[64], "bf16"),
    *described_all(_HEADS[128], "bf16"),
    *described_all(_HEADS[256], "bf16"),
    *described_all(_HEADS[64], "fp16"),
    *described_all(_HEADS[128], "fp32"),
)

TUNABLES = tunables("window_attention")

OP = Op(
    name="window_attention",
    formula=(
        "out[B,H,Q,E] = softmax(q[B,H,Q,D] @ k[B,G,S,D]^T / sqrt(D), last W keys) @ v[B,G,S,E]"
    ),
    source="Jiang et al. 2023, https://arxiv.org/abs/2310.06825",
    axes=("B", "Q", "S", "H", "G", "D", "E", "W"),
    dtypes=dtypes.ALL,
    modes=(Mode.FORWARD, Mode.BACKWARD),
    make_inputs=attention.make_inputs,
    reference=reference,
    cost=cost,
    tolerance=attention.tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, _compile_unsupported),
        Impl("triton", _prepare_triton, attention.kernel_unsupported),
    ),
)
