from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import gemm, triton_support, tuning
from kernels.gemm import custom_ops
from kernels.gemm.custom_ops import TUNABLES
from kernels.op import Mode, Problem, problem
from kernels.tiles import heuristic
from kernels.tuning import Config, config
from tests.kernels.checks import DEVICE, inputs_of, needs_gpu, run_triton

MODES = (Mode.FORWARD, Mode.DGRAD, Mode.WGRAD)
SPACES = {tunable.kernel: tunable.configs for tunable in TUNABLES}


def _tiles(kernel: str) -> list[Config]:
    return list(dict.fromkeys(tile for tiles in SPACES[kernel].values() for tile in tiles))


@contextmanager
def _hopper() -> Iterator[None]:
    """The interpreter as if it were an sm_90 GPU, which multiplies by descriptors."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setattr(triton_support, "compute_capability", lambda device: (9, 0))
        yield


def _kernel_of(case: Problem) -> str:
    """The tunable that a run of the case asks for."""
    with tuning.observed() as choices:
        run_triton(gemm.OP, case)
    (kernel,) = {choice.kernel for choice in choices}
    return kernel


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("M", "N", "K"), [(1, 70, 131), (16, 64, 128), (65, 1, 1), (600, 70, 40)])
def test_any_shape_agrees_with_fp64(mode: Mode, M: int, N: int, K: int) -> None:
    run_triton(gemm.OP, problem("gemm", "fp32", mode, M=M, N=N, K=K))


@settings(deadline=None, max_examples=15)
@given(
    sizes=st.tuples(st.integers(1, 140), st.integers(1, 140), st.integers(1, 140)),
    mode=st.sampled_from(MODES),
    dtype=st.sampled_from(["fp16", "fp32", "tf32"]),
    step=st.sampled_from([1, 8]),
)
def test_sizes_that_descriptors_take_and_others_agree_with_fp64(
    sizes: tuple[int, int, int], mode: Mode, dtype: str, step: int
) -> None:
    M, N, K = (size * step for size in sizes) if step == 1 else (-(-s // 8) * 8 for s in sizes)
    with _hopper():
        run_triton(gemm.OP, problem("gemm", dtype, mode, M=M, N=N, K=K))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [(1, 4096, 4096), (4097, 4095, 513), (256, 384, 8192), (8192, 10240, 8192), (4104, 1032, 520)],
)
def test_large_tiles_agree_with_fp64(dtype: str, mode: Mode, M: int, N: int, K: int) -> None:
    run_triton(gemm.OP, problem("gemm", dtype, mode, M=M, N=N, K=K))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kernel", SPACES)
def test_every_tile_of_this_gpu_agrees_with_fp64_at_real_sizes(kernel: str, mode: Mode) -> None:
    dtype = {"tf32": "tf32", "fp32": "fp32"}.get(kernel.rpartition(".")[2], "bf16")
    with tuning.observed() as choices:
        run_triton(gemm.OP, problem("gemm", dtype, mode, M=2048, N=1024, K=4096))
    major = triton_support.compute_capability(DEVICE)[0]
    family = {9: "sm_90", 10: "sm_100"}.get(major, "") if "descriptor" in kernel else "cuda"
    if not choices.of(kernel) or family not in SPACES[kernel]:
        pytest.skip(f"{kernel} is not what this GPU multiplies {dtype} with")
    for tile in SPACES[kernel][family]:
        with tuning.forced({kernel: tile}):
            run_triton(gemm.OP, problem("gemm", dtype, mode, M=2048, N=1024, K=4096))


@pytest.mark.parametrize("tile", _tiles("gemm"), ids=str)
def test_every_16_bit_tile_agrees_with_fp64(tile: Config) -> None:
    M, N = tile["BLOCK_M"] + 5, tile["BLOCK_N"] + 3
    with tuning.forced({"gemm": tile}):
        run_triton(gemm.OP, problem("gemm", "fp16", M=M, N=N, K=71))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tile", _tiles("gemm.descriptor"), ids=str)
def test_every_descriptor_tile_agrees_with_fp64(tile: Config, mode: Mode) -> None:
    # Two rows and two columns of tiles, so that one of three programs computes two.
    across = {"M": tile["BLOCK_M"] + 8, "N": tile["BLOCK_N"] + 8, "K": 72}
    names = {Mode.FORWARD: "MNK", Mode.DGRAD: "MKN", Mode.WGRAD: "NKM"}[mode]
    sizes = dict(zip(names, across.values(), strict=True))
    with _hopper(), tuning.forced({"gemm.descriptor": tile}):
        run_triton(gemm.OP, problem("gemm", "fp16", mode, M=sizes["M"], N=sizes["N"], K=sizes["K"]))


@pytest.mark.parametrize("kernel", ["gemm.tf32", "gemm.descriptor.tf32", "gemm.fp32"])
def test_every_32_bit_tile_agrees_with_fp64(kernel: str) -> None:
    dtype = kernel.rpartition(".")[2]
    for tile in _tiles(kernel):
        case = problem(
            "gemm", dtype, M=tile["BLOCK_M"] + 64, N=tile["BLOCK_N"] + 4, K=tile["BLOCK_K"] + 4
        )
        with tuning.forced({kernel: tile}):
            if "descriptor" in kernel:
                with _hopper():
                    assert _kernel_of(case) == kernel
            else:
                run_triton(gemm.OP, case)


@pytest.mark.parametrize("is_hopper", [False, True])
def test_grouped_order_visits_every_tile(is_hopper: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # More rows of tiles than a group holds, and a last group that is not full.
    monkeypatch.setattr(custom_ops, "GROUP_ROWS", 3)
    blocks = {"BLOCK_M": 16, "BLOCK_N": 16, "BLOCK_K": 16}
    walk = {"STORES": 2, "WARP_SPECIALIZE": 0, "FLATTEN": 1}
    tiles = {"gemm": config(4, 2, **blocks), "gemm.descriptor": config(4, 2, **blocks, **walk)}
    case = problem("gemm", "fp16", M=16 * 7 + 8, N=16 * 2 + 8, K=8)
    with tuning.forced(tiles):
        if is_hopper:
            with _hopper():
                assert _kernel_of(case) == "gemm.descriptor"
        else:
            run_triton(gemm.OP, case)


def test_descriptors_are_for_many_aligned_rows_of_a_type_with_tensor_cores() -> None:
    if DEVICE.type != "cpu" and triton_support.compute_capability(DEVICE)[0] not in (9, 10):
        pytest.skip("this GPU multiplies by pointers")
    with _hopper():
        assert _kernel_of(problem("gemm", "fp16", M=72, N=64, K=16)) == "gemm.descriptor"
        assert _kernel_of(problem("gemm", "tf32", M=72, N=64, K=16)) == "gemm.descriptor.tf32"
        assert _kernel_of(problem("gemm", "fp16", M=72, N=64, K=17)) == "gemm"
        assert _kernel_of(problem("gemm", "fp16", M=72, N=63, K=16)) == "gemm"
        assert _kernel_of(problem("gemm", "fp16", M=64, N=64, K=16)) == "gemm"
        assert _kernel_of(problem("gemm", "fp32", M=72, N=64, K=16)) == "gemm.fp32"


def test_operand_that_starts_between_16_bytes_is_read_by_pointers() -> None:
    x = torch.randn(72 * 16 + 1, device=DEVICE, dtype=torch.float16)[1:].view(72, 16)
    w = torch.randn(64, 16, device=DEVICE, dtype=torch.float16)
    with _hopper(), tuning.observed() as choices:
        y = gemm.gemm(x, w)
    assert {choice.kernel for choice in choices} == {"gemm"}
    torch.testing.assert_close(y, (x.double() @ w.double().T).half())


def test_tile_grows_with_the_problem_and_fills_the_chip() -> None:
    def shape(kernel: str, family: str, rows: int, columns: int) -> tuple[int, int]:
        tile = heuristic(SPACES[kernel][family], rows, columns, 132)
        return tile["BLOCK_M"], tile["BLOCK_N"]

    assert shape("gemm", "cuda", 16, 4096) == (16, 64)
    assert shape("gemm", "cuda", 512, 768) == (64, 64)
    assert shape("gemm", "hip", 8192, 8192) == (256, 256)
    assert shape("gemm.descriptor", "sm_90", 8192, 8192) == (128, 256)
    # 320 tiles of 128 x 256 would take three waves, the last of 56; 640 smaller ones take five.
    assert shape("gemm.descriptor", "sm_90", 8192, 1280) == (128, 128)
    assert shape("gemm.descriptor", "sm_90", 128, 4096) == (64, 128)


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_gradients_come_from_the_two_other_ops(allow_tf32: bool) -> None:
    x = torch.randn(5, 7, device=DEVICE, requires_grad=True)
    w = torch.randn(3, 7, device=DEVICE, requires_grad=True)
    dy = torch.randn(5, 3, device=DEVICE)
    with tuning.observed() as choices:
        dx, dw = torch.autograd.grad(gemm.gemm(x, w, allow_tf32), (x, w), dy)
    close = {"atol": 1e-2, "rtol": 1e-2} if allow_tf32 else {}
    torch.testing.assert_close(dx, (dy.double() @ w.double()).float(), **close)
    torch.testing.assert_close(dw, (dy.double().T @ x.double()).float(), **close)
    assert {choice.kernel for choice in choices} == {"gemm.tf32" if allow_tf32 else "gemm.fp32"}


def test_gradient_that_nobody_needs_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dy: torch.Tensor, x: torch.Tensor, allow_tf32: bool) -> torch.Tensor:
        raise AssertionError("wgrad ran for a frozen weight")

    monkeypatch.setattr(custom_ops, "gemm_wgrad", fail)
    x = torch.randn(5, 7, device=DEVICE, requires_grad=True)
    gemm.gemm(x, torch.randn(3, 7, device=DEVICE)).sum().backward()
    assert x.grad is not None


def test_what_the_kernel_cannot_read_is_refused() -> None:
    x, w = torch.zeros(4, 6, device=DEVICE), torch.zeros(5, 6, device=DEVICE)
    with pytest.raises(ValueError, match=r"gemm: w of shape \(5, 6\) has strides \(1, 5\)"):
        gemm.gemm(x, w.T.contiguous().T)
    with pytest.raises(ValueError, match=r"w is torch.float16, but must be torch.float32"):
        gemm.gemm(x, w.half())
    with pytest.raises(ValueError, match=r"\(4, 6\) @ \(7, 5\) do not multiply"):
        gemm.gemm(x, torch.zeros(5, 7, device=DEVICE))
    with pytest.raises(ValueError, match=r"x must be a matrix, not of shape \(6,\)"):
        gemm.gemm(x[0], w)


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem("gemm", "tf32", M=4, N=4, K=4)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    for name in ("torch", "compile"):
        unsupported = gemm.OP.impl(name).unsupported
        assert unsupported(case, cpu) == (
            "tf32 is a type of NVIDIA's tensor cores; use fp32 on this device."
        )
    monkeypatch.setattr(triton_support, "is_amd", lambda: True)
    assert gemm.tf32_unsupported(case, gpu) is not None
    monkeypatch.setattr(triton_support, "is_amd", lambda: False)
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: (7, 5))
    assert "compute capability 8.0" in str(gemm.tf32_unsupported(case, gpu))
    monkeypatch.setattr(triton_support, "compute_capability", lambda device: (9, 0))
    assert gemm.tf32_unsupported(case, gpu) is None


@pytest.mark.parametrize(("dtype", "inside"), [("tf32", "high"), ("fp32", "highest")])
def test_precision_of_fp32_products_is_set_for_a_run_and_put_back(
    dtype: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return x @ w.T

    monkeypatch.setitem(gemm._EAGER, Mode.FORWARD, spy)
    before = torch.get_float32_matmul_precision()
    case = problem("gemm", dtype, M=2, N=3, K=4)
    try:
        torch.set_float32_matmul_precision("medium")
        gemm.OP.impl("torch").prepare(case, inputs_of(gemm.OP, case))()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [inside]


def test_tolerance_of_tf32_takes_operands_without_their_last_bits() -> None:
    case = problem("gemm", "tf32", M=256, N=256, K=4096)
    inputs = inputs_of(gemm.OP, case)
    # Tensor cores of sm_80 and later read 19 of the 32 bits.
    cut = [(one.view(torch.int32) & ~0x1FFF).view(torch.float32) for one in inputs.values()]
    (tolerance,) = gemm.OP.tolerance(case)
    x, w = inputs.values()
    exact = x.double() @ w.double().T
    error = (cut[0].double() @ cut[1].double().T - exact).norm() / exact.norm()
    assert 0.5 * tolerance.relative_error < error < tolerance.relative_error


@pytest.mark.parametrize(
    ("mode", "read", "written"),
    [
        (Mode.FORWARD, 2 * 7 + 3 * 7, 2 * 3),
        (Mode.DGRAD, 2 * 3 + 3 * 7, 2 * 7),
        (Mode.WGRAD, 2 * 3 + 2 * 7, 3 * 7),
    ],
)
def test_cost_by_hand(mode: Mode, read: int, written: int) -> None:
    for dtype, size in (("bf16", 2), ("tf32", 4)):
        cost = gemm.OP.cost(problem("gemm", dtype, mode, M=2, N=3, K=7))
        assert (cost.flops, cost.bytes_read, cost.bytes_written) == (
            84,
            size * read,
            size * written,
        )
