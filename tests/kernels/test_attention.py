import math
from dataclasses import replace

import pytest
import torch

from kernels import attention, triton_support, tuning
from kernels.attention import custom_ops, tiles
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

MODES = (Mode.FORWARD, Mode.BACKWARD)

SHAPES = {
    "training": {"B": 1, "Q": 70, "S": 70, "H": 1, "G": 1, "D": 16, "E": 16},
    "one group for all heads": {"B": 2, "Q": 33, "S": 33, "H": 3, "G": 1, "D": 16, "E": 16},
    "queries at the end of longer keys": {
        "B": 1, "Q": 33, "S": 131, "H": 2, "G": 1, "D": 16, "E": 16,
    },
    "decode": {"B": 2, "Q": 1, "S": 75, "H": 4, "G": 2, "D": 24, "E": 24},
    "a few queries at once": {"B": 1, "Q": 5, "S": 75, "H": 4, "G": 2, "D": 24, "E": 24},
    "values narrower than keys": {"B": 1, "Q": 20, "S": 20, "H": 2, "G": 2, "D": 48, "E": 32},
    "values wider than keys": {"B": 1, "Q": 20, "S": 20, "H": 2, "G": 2, "D": 3, "E": 40},
}  # fmt: skip


@pytest.mark.parametrize("variant", attention.OP.variants)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shape_agrees_with_fp64(shape: str, mode: Mode, variant: str) -> None:
    run_triton(attention.OP, problem("attention", "fp32", mode, variant, **SHAPES[shape]))


# Blocks that need no mask exist only past the size of a 16-bit tile.
@pytest.mark.parametrize("variant", attention.OP.variants)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("Q", "S"), [(300, 300), (140, 301)])
def test_masked_and_full_blocks_agree_with_fp64(Q: int, S: int, mode: Mode, variant: str) -> None:
    run_triton(
        attention.OP,
        problem("attention", "fp16", mode, variant, B=1, Q=Q, S=S, H=1, G=1, D=16, E=16),
    )


# L40S, RTX 4090 and RTX 5090 have 99 KiB, which the tiles of the widest heads exceed elsewhere.
@pytest.mark.parametrize("mode", MODES)
def test_widest_heads_agree_with_fp64_in_little_shared_memory(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "families", lambda device: ("sm_89", "cuda_99k"))
    wide = {"D": 200, "E": 256}
    run_triton(
        attention.OP,
        problem("attention", "fp16", mode, "causal", B=1, Q=70, S=75, H=2, G=1, **wide),
    )


@pytest.mark.parametrize(
    ("capability", "shared_kib", "family"),
    [
        ((8, 0), 163, "sm_80"),
        ((8, 6), 99, "cuda_99k"),
        ((8, 9), 99, "cuda_99k"),
        ((9, 0), 227, "sm_90"),
        ((10, 0), 227, "sm_100"),
        ((10, 3), 227, "sm_100"),
        ((11, 0), 227, "sm_100"),
        ((12, 0), 99, "cuda_99k"),
    ],
)
def test_gpu_takes_the_tiles_of_the_nearest_architecture_below(
    capability: tuple[int, int], shared_kib: int, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "is_amd", lambda: False)
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: capability)
    monkeypatch.setattr(triton_support, "shared_memory_bytes", lambda device: shared_kib * 1024)
    device = torch.device("cuda", 0)
    assert tiles.family_of(device) == family
    names = triton_support.families(device)
    assert names[0] == f"sm_{capability[0]}{capability[1]}"
    assert names[-1] == ("cuda_99k" if shared_kib == 99 else "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_masks_take_other_tiles_only_where_told(dtype: torch.dtype) -> None:
    is_32_bit = dtype == torch.float32
    overrides = tiles.OVERRIDES_32_BIT if is_32_bit else tiles.OVERRIDES
    for family, table in tiles.TILES.items():
        usual = tiles.TILES_32_BIT if is_32_bit else table
        for head in usual:
            assert tiles.tiles_of("attention", family, head, dtype) == usual[head]
            for op in ("window_attention", "varlen_attention"):
                replaced = overrides.get((op, family, head), {})
                found = tiles.tiles_of(op, family, head, dtype)
                assert found == usual[head]._replace(**replaced)


def test_narrow_head_takes_the_tiles_of_the_next_wider() -> None:
    found = [tiles.tiles_of("attention", "sm_90", head, torch.bfloat16) for head in (16, 64, 128)]
    assert found[0] == found[1] != found[2]


# The interpreter has neither warps nor stages: of tiles of the same blocks one is enough there.
@pytest.mark.parametrize("tunable", attention.TUNABLES, ids=lambda one: one.kernel)
def test_every_tile_of_a_search_agrees_with_fp64(tunable: tuning.Tunable) -> None:
    mode = Mode.FORWARD if tunable.kernel.endswith("forward") else Mode.BACKWARD
    case = problem("attention", "fp16", mode, "causal", B=1, Q=132, S=135, H=1, G=1, D=16, E=16)
    inputs = inputs_of(attention.OP, case)
    references = expected(attention.OP, case, inputs)
    for one in {one.blocks: one for family in tunable.configs.values() for one in family}.values():
        with tuning.forced({tunable.kernel: one}), tuning.observed() as chosen:
            outputs = attention.OP.impl("triton").prepare(case, inputs)()
        assert_within(outputs, references, attention.OP.tolerance(case))
        assert {choice.config for choice in chosen.of(tunable.kernel)} == {one}


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("D", "E"), [(64, 64), (128, 128), (192, 128), (256, 256)])
@pytest.mark.parametrize(("Q", "S"), [(1024, 1024), (1, 1000), (257, 1000)])
def test_head_sizes_of_models_agree_with_fp64(
    Q: int, S: int, D: int, E: int, dtype: str, mode: Mode
) -> None:
    run_triton(
        attention.OP, problem("attention", dtype, mode, "causal", B=2, Q=Q, S=S, H=8, G=2, D=D, E=E)
    )


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("Q", "S"), [(7, 7), (3, 7), (1, 7), (20, 23)])
def test_query_sees_keys_up_to_its_own_position(Q: int, S: int, impl: str) -> None:
    case = problem("attention", "fp32", Mode.FORWARD, "causal", B=1, Q=Q, S=S, H=2, G=1, D=16, E=S)
    inputs = inputs_of(attention.OP, case)
    # With the identity as values, the output is the probabilities themselves.
    inputs["v"] = torch.eye(S, device=DEVICE)[None, None].contiguous()
    (out,) = attention.OP.impl(impl).prepare(case, inputs)()
    for query in range(Q):
        last = query + S - Q
        assert (out[0, :, query, : last + 1] > 0).all()
        assert (out[0, :, query, last + 1 :] == 0).all()


def test_head_reads_the_key_value_head_of_its_group() -> None:
    case = problem(
        "attention", "fp32", Mode.FORWARD, "causal", B=2, Q=20, S=20, H=6, G=3, D=16, E=16
    )
    inputs = inputs_of(attention.OP, case)
    inputs["v"] = torch.arange(3.0, device=DEVICE)[None, :, None, None].expand(2, 3, 20, 16)
    inputs["v"] = inputs["v"].contiguous()
    (out,) = attention.OP.impl("triton").prepare(case, inputs)()
    for head in range(6):
        torch.testing.assert_close(out[:, head], torch.full_like(out[:, head], head // 2))


def test_log_sum_exp_is_natural() -> None:
    q = torch.zeros(1, 1, 20, 16, device=DEVICE)
    _, lse = attention.attention(q, q, q)
    torch.testing.assert_close(lse[0, 0], torch.arange(1.0, 21.0, device=DEVICE).log())


def test_large_scores_stay_finite() -> None:
    case = problem(
        "attention", "fp32", Mode.BACKWARD, "causal", B=1, Q=40, S=40, H=1, G=1, D=16, E=16
    )
    inputs = inputs_of(attention.OP, case)
    inputs["q"] *= 100
    references = expected(attention.OP, case, inputs)
    outputs = attention.OP.impl("triton").prepare(case, inputs)()
    # A score of a few hundred is rounded by that many times the epsilon of 1 before it is an
    # exponent.
    loose = tuple(
        replace(
            tolerance,
            relative_error=300 * tolerance.relative_error,
            max_error=300 * tolerance.max_error,
            row_error=300 * tolerance.row_error,
        )
        for tolerance in attention.OP.tolerance(case)
    )
    assert_within(outputs, references, loose)


def test_too_large_a_head_is_refused_with_the_limit() -> None:
    unsupported = attention.OP.impl("triton").unsupported
    sizes = {"B": 1, "Q": 1, "S": 1, "H": 1, "G": 1}
    reason = unsupported(
        problem("attention", "fp16", Mode.FORWARD, "causal", **sizes, D=576, E=512), DEVICE
    )
    assert reason is not None
    assert reason.endswith("which ends at 256 values; D=576 E=512 is padded to 1024.")
    assert (
        unsupported(
            problem("attention", "fp16", Mode.FORWARD, "causal", **sizes, D=192, E=128), DEVICE
        )
        is None
    )


def test_what_the_kernel_cannot_read_is_refused() -> None:
    q, k = torch.zeros(1, 4, 3, 16, device=DEVICE), torch.zeros(1, 2, 5, 16, device=DEVICE)
    with pytest.raises(ValueError, match=r"H a multiple of G and Q <= S are expected"):
        attention.attention(q[:, :3].contiguous(), k, k)
    with pytest.raises(ValueError, match=r"H a multiple of G and Q <= S are expected"):
        attention.attention(q, k[:, :, :2].contiguous(), k[:, :, :2].contiguous())
    with pytest.raises(ValueError, match=r"k of shape .* has strides"):
        attention.attention(q, k.transpose(1, 2).contiguous().transpose(1, 2), k)
    with pytest.raises(ValueError, match=r"v is torch.float16, but must be torch.float32"):
        attention.attention(q, k, k.half())


@pytest.mark.parametrize("variant", attention.OP.variants)
@pytest.mark.parametrize(("Q", "S"), [(1, 1), (1, 9), (4, 4), (4, 9)])
def test_cost_counts_the_visible_pairs(Q: int, S: int, variant: str) -> None:
    sizes = {"B": 2, "Q": Q, "S": S, "H": 6, "G": 3, "D": 5, "E": 7}
    num_pairs = sum(
        variant == "full" or key <= query + S - Q for query in range(Q) for key in range(S)
    )
    forward = attention.OP.cost(problem("attention", "bf16", Mode.FORWARD, variant, **sizes))
    assert forward.flops == 2 * 6 * num_pairs * 2 * (5 + 7)
    assert forward.bytes_read == 2 * (2 * 6 * Q * 5 + 2 * 3 * S * (5 + 7))
    assert forward.bytes_written == 2 * (2 * 6 * Q * 7)
    backward = attention.OP.cost(problem("attention", "bf16", Mode.BACKWARD, variant, **sizes))
    assert backward.flops == 2 * forward.flops
    assert backward.bytes_read == forward.bytes_read + forward.bytes_written
    assert backward.bytes_written == forward.bytes_read


def test_scale_constants_in_the_kernels_are_those_of_python() -> None:
    assert math.isclose(0.6931471805599453, math.log(2))
    assert math.isclose(custom_ops._LOG2_E, 1.4426950408889634)
