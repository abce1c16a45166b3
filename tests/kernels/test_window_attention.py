import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, registry, tuning, window_attention
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = window_attention.OP
MODES = (Mode.FORWARD, Mode.BACKWARD)
HEADS = {"H": 2, "G": 1, "D": 16, "E": 16}


# Fewer keys than a tile, more than one, a window that masks nothing, and a decode step.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("Q", "S", "W"),
    [(150, 150, 7), (140, 301, 140), (150, 150, 500), (1, 300, 140), (5, 300, 3), (130, 200, 1)],
)
def test_window_agrees_with_fp64(Q: int, S: int, W: int, mode: Mode) -> None:
    run_triton(OP, problem("window_attention", "fp16", mode, B=1, Q=Q, S=S, W=W, **HEADS))


@settings(deadline=None, max_examples=10)
@given(Q=st.integers(1, 60), before=st.integers(0, 40), W=st.integers(1, 110))
def test_query_sees_the_last_keys_of_its_window_only(Q: int, before: int, W: int) -> None:
    S = Q + before
    case = problem("window_attention", "fp32", B=1, Q=Q, S=S, W=W, **HEADS | {"E": S})
    inputs = inputs_of(OP, case)
    # With the identity as values, the output is the probabilities themselves.
    inputs["v"] = torch.eye(S, device=DEVICE)[None, None].contiguous()
    (out,) = OP.impl("triton").prepare(case, inputs)()
    position = torch.arange(Q, device=DEVICE)[:, None] + before
    key = torch.arange(S, device=DEVICE)[None, :]
    seen = (key <= position) & (key > position - W)
    assert torch.equal(out[0] > 0, seen.expand(2, Q, S))


def test_wide_window_is_causal_attention() -> None:
    case = problem("window_attention", "fp32", B=1, Q=20, S=33, W=33, **HEADS)
    inputs = inputs_of(OP, case)
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    out, lse = window_attention.window_attention(q, k, v, 33)
    causal_out, causal_lse = attention.attention(q, k, v)
    torch.testing.assert_close(out, causal_out)
    torch.testing.assert_close(lse, causal_lse)


@settings(deadline=None, max_examples=20)
@given(Q=st.integers(1, 12), before=st.integers(0, 9), W=st.integers(1, 25))
def test_cost_counts_the_visible_pairs(Q: int, before: int, W: int) -> None:
    S = Q + before
    sizes = {"B": 2, "Q": Q, "S": S, "H": 6, "G": 3, "D": 5, "E": 7, "W": W}
    pairs = sum(i + before - W < j <= i + before for i in range(Q) for j in range(S))
    forward = OP.cost(problem("window_attention", "bf16", **sizes))
    assert forward.flops == 2 * 6 * pairs * 2 * (5 + 7)
    backward = OP.cost(problem("window_attention", "bf16", Mode.BACKWARD, **sizes))
    assert backward.flops == 2 * forward.flops
    assert backward.bytes_read == forward.bytes_read + forward.bytes_written
    assert backward.bytes_written == forward.bytes_read == 2 * 2 * (6 * Q * 5 + 3 * S * 12)


# The interpreter has neither warps nor stages: of tiles of the same blocks one is enough there.
@pytest.mark.parametrize("tunable", window_attention.TUNABLES, ids=lambda one: one.kernel)
def test_every_tile_of_a_search_agrees_with_fp64(tunable: tuning.Tunable) -> None:
    mode = Mode.FORWARD if tunable.kernel.endswith("forward") else Mode.BACKWARD
    case = problem("window_attention", "fp16", mode, B=1, Q=132, S=135, W=40, **HEADS | {"H": 1})
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    for one in {one.blocks: one for family in tunable.configs.values() for one in family}.values():
        with tuning.forced({tunable.kernel: one}):
            outputs = OP.impl("triton").prepare(case, inputs)()
        assert_within(outputs, references, OP.tolerance(case))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    q, k = torch.zeros(1, 4, 3, 16, device=DEVICE), torch.zeros(1, 2, 5, 16, device=DEVICE)
    with pytest.raises(ValueError, match=r"W is 0, but a query sees at least one key"):
        window_attention.window_attention(q, k, k, 0)
    with pytest.raises(ValueError, match=r"window_attention: q\[B,H,Q,D\].* are expected"):
        window_attention.window_attention(q[:, :3].contiguous(), k, k, 2)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", registry.outline("window_attention").dtypes)
@pytest.mark.parametrize(("W", "H", "G", "D"), [(128, 64, 8, 64), (4096, 32, 8, 128)])
def test_windows_of_models_agree_with_fp64(
    W: int, H: int, G: int, D: int, dtype: str, mode: Mode
) -> None:
    sizes = {"B": 1, "Q": 5000, "S": 5000, "H": H // 8, "G": G // 8, "D": D, "E": D, "W": W}
    run_triton(OP, problem("window_attention", dtype, mode, **sizes))
