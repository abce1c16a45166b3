import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import attention, registry, tuning, varlen_attention
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = varlen_attention.OP
MODES = (Mode.FORWARD, Mode.BACKWARD)
HEADS = {"H": 2, "G": 1, "D": 16, "E": 16}


# More than one tile in the longest, sequences of no token, one sequence, one token each.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", OP.variants)
@pytest.mark.parametrize(("T", "B"), [(300, 3), (9, 7), (70, 1), (5, 5)])
def test_packed_sequences_agree_with_fp64(T: int, B: int, variant: str, mode: Mode) -> None:
    run_triton(OP, problem("varlen_attention", "fp16", mode, variant, T=T, B=B, **HEADS))


@given(T=st.integers(1, 5000), B=st.integers(1, 70), variant=st.sampled_from(OP.variants))
def test_lengths_add_up_and_fall(T: int, B: int, variant: str) -> None:
    lengths = varlen_attention.lengths(T, B, variant)
    assert len(lengths) == B
    assert sum(lengths) == T
    assert lengths == sorted(lengths, reverse=True)
    assert min(lengths) >= 0


def test_lengths_by_hand() -> None:
    assert varlen_attention.lengths(11, 3, "even") == [4, 4, 3]
    # 110 / (1 + 1/2 + 1/3) = 60, and 60, 30, 20 of it.
    assert varlen_attention.lengths(112, 3, "skewed") == [62, 30, 20]


@settings(deadline=None, max_examples=8)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any))
def test_each_sequence_is_attention_of_its_own(lengths: list[int]) -> None:
    case = problem(
        "varlen_attention", "fp32", Mode.FORWARD, "even", T=sum(lengths), B=len(lengths), **HEADS
    )
    inputs = inputs_of(OP, case)
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    bounds = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(torch.int32)
    out, lse = varlen_attention.varlen_attention(q, k, v, bounds, max(lengths))
    for start, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
        if start == end:
            continue
        one = (tensor[start:end].transpose(0, 1)[None].contiguous() for tensor in (q, k, v))
        alone, lse_alone = attention.attention(*one)
        torch.testing.assert_close(out[start:end], alone[0].transpose(0, 1))
        torch.testing.assert_close(lse[:, start:end], lse_alone[0])


def test_cost_by_hand() -> None:
    sizes = {"T": 112, "B": 3, "H": 6, "G": 3, "D": 5, "E": 7}
    case = problem("varlen_attention", "bf16", Mode.FORWARD, "skewed", **sizes)
    pairs = 62 * 63 // 2 + 30 * 31 // 2 + 20 * 21 // 2
    forward = OP.cost(case)
    assert forward.flops == 2 * 6 * pairs * (5 + 7)
    assert forward.bytes_read == 2 * 112 * (6 * 5 + 3 * 12) + 4 * 4
    assert forward.bytes_written == 2 * 112 * 6 * 7
    backward = OP.cost(problem("varlen_attention", "bf16", Mode.BACKWARD, "skewed", **sizes))
    assert backward.flops == 2 * forward.flops
    assert backward.bytes_read == forward.bytes_read + forward.bytes_written
    assert backward.bytes_written == forward.bytes_read - 16


# The interpreter has neither warps nor stages: of tiles of the same blocks one is enough there.
@pytest.mark.parametrize("tunable", varlen_attention.TUNABLES, ids=lambda one: one.kernel)
def test_every_tile_of_a_search_agrees_with_fp64(tunable: tuning.Tunable) -> None:
    mode = Mode.FORWARD if tunable.kernel.endswith("forward") else Mode.BACKWARD
    case = problem("varlen_attention", "fp16", mode, "skewed", T=200, B=2, **HEADS | {"H": 1})
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    for one in {one.blocks: one for family in tunable.configs.values() for one in family}.values():
        with tuning.forced({tunable.kernel: one}):
            outputs = OP.impl("triton").prepare(case, inputs)()
        assert_within(outputs, references, OP.tolerance(case))


@pytest.mark.parametrize(
    ("dtype", "E", "device", "is_packed"),
    [
        ("bf16", 64, "cuda", True),
        ("fp32", 64, "cuda", False),
        ("bf16", 32, "cuda", False),
        ("bf16", 64, "cpu", False),
    ],
)
def test_torch_packs_where_its_attention_takes_the_problem(
    dtype: str, E: int, device: str, is_packed: bool
) -> None:
    sizes = {"T": 9, "B": 2, "H": 2, "G": 2, "D": 64, "E": E}
    case = problem("varlen_attention", dtype, Mode.FORWARD, "even", **sizes)
    assert varlen_attention._uses_varlen_attn(case, torch.device(device)) == is_packed


def test_what_the_kernel_cannot_read_is_refused() -> None:
    q, k = torch.zeros(9, 4, 16, device=DEVICE), torch.zeros(9, 2, 16, device=DEVICE)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match=r"H a multiple of G are expected"):
        varlen_attention.varlen_attention(q[:, :3].contiguous(), k, k, bounds, 5)
    with pytest.raises(ValueError, match=r"cu_seqlens\[B\+1\] in int32 is expected, not \(3,\) in"):
        varlen_attention.varlen_attention(q, k, k, bounds.long(), 5)
    with pytest.raises(ValueError, match=r"has 10 tokens, but must have 1 to T = 9"):
        varlen_attention.varlen_attention(q, k, k, bounds, 10)


def test_too_long_a_sequence_is_refused_with_the_limit() -> None:
    sizes = {"T": 2**18, "B": 1, "H": 64, "G": 8, "D": 128, "E": 128}
    case = problem("varlen_attention", "fp16", Mode.FORWARD, "even", **sizes)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    assert reason is not None
    assert reason.startswith("A sequence of 262144 tokens has 2^31 elements or more")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", OP.variants)
@pytest.mark.parametrize("dtype", registry.outline("varlen_attention").dtypes)
def test_packed_documents_agree_with_fp64(dtype: str, variant: str, mode: Mode) -> None:
    sizes = {"T": 8192, "B": 16, "H": 8, "G": 2, "D": 128, "E": 128}
    run_triton(OP, problem("varlen_attention", dtype, mode, variant, **sizes))
