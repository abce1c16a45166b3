import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import kv_cache_write
from kernels.op import problem
from tests.kernels.checks import DEVICE, needs_gpu, run_triton

E4M3 = torch.float8_e4m3fn


def _zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, device=DEVICE, dtype=dtype)


def _slots(*slots: int) -> torch.Tensor:
    return torch.tensor(slots, device=DEVICE, dtype=torch.int64)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp8"])
@pytest.mark.parametrize(
    ("T", "N", "P", "G", "D"), [(1, 1, 1, 1, 1), (4, 2, 2, 8, 128), (3, 1, 16, 1, 1025)]
)
def test_any_shape_agrees_with_fp64(dtype: str, T: int, N: int, P: int, G: int, D: int) -> None:
    run_triton(kv_cache_write.OP, problem("kv_cache_write", dtype, T=T, N=N, P=P, G=G, D=D))


def test_a_token_goes_to_its_page_and_place_and_the_rest_stays() -> None:
    k = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], device=DEVICE)
    k_cache, v_cache = _zeros(2, 3, 1, 2), _zeros(2, 3, 1, 2)
    kv_cache_write.kv_cache_write(k, -k, k_cache, v_cache, _slots(4, 0), None)
    expected = _zeros(2, 3, 1, 2)
    expected[1, 1, 0], expected[0, 0, 0] = k[0, 0], k[1, 0]
    assert torch.equal(k_cache, expected)
    assert torch.equal(v_cache, -expected)


def test_a_slot_outside_the_cache_writes_nothing() -> None:
    k = torch.ones(4, 1, 2, device=DEVICE)
    k_cache, v_cache = _zeros(2, 3, 1, 2), _zeros(2, 3, 1, 2)
    slots = _slots(-1, 6, 1 << 40, 2)
    kv_cache_write.kv_cache_write(k, k, k_cache, v_cache, slots, None)
    assert k_cache.flatten(0, 1).sum(dim=(1, 2)).tolist() == [0, 0, 2, 0, 0, 0]
    assert torch.equal(k_cache, v_cache)


def test_e4m3_has_a_scale_for_keys_and_one_for_values_and_saturates() -> None:
    k = torch.tensor([[[1.0, -1000.0, 0.25]]], device=DEVICE, dtype=torch.bfloat16)
    k_cache, v_cache = _zeros(1, 1, 1, 3).to(E4M3), _zeros(1, 1, 1, 3).to(E4M3)
    scale = torch.tensor([0.5, 4.0], device=DEVICE)
    kv_cache_write.kv_cache_write(k, k, k_cache, v_cache, _slots(0), scale)
    assert k_cache.float().flatten().tolist() == [2, -448, 0.5]
    assert v_cache.float().flatten().tolist() == [0.25, -256, 0.0625]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 40), st.randoms())
def test_what_is_written_can_be_read_at_its_slot(
    N: int, P: int, G: int, D: int, random: object
) -> None:
    num_slots = N * P
    slots = random.sample(range(num_slots), random.randint(1, num_slots))
    k = torch.randn(len(slots), G, D, device=DEVICE)
    k_cache, v_cache = _zeros(N, P, G, D), _zeros(N, P, G, D)
    kv_cache_write.kv_cache_write(k, k + 1, k_cache, v_cache, _slots(*slots), None)
    assert torch.equal(k_cache.flatten(0, 1)[slots], k)
    assert torch.equal(v_cache.flatten(0, 1)[slots], k + 1)
    others = sorted(set(range(num_slots)) - set(slots))
    assert (k_cache.flatten(0, 1)[others] == 0).all()


def test_what_the_kernel_cannot_write_is_refused() -> None:
    write = kv_cache_write.kv_cache_write
    k, cache, slot = _zeros(2, 1, 4), _zeros(3, 5, 1, 4), _slots(0, 1)
    with pytest.raises(ValueError, match=r"not \(2, 4\) and \(2, 4\)"):
        write(k[:, 0], k[:, 0], cache, cache.clone(), slot, None)
    with pytest.raises(ValueError, match=r"k_cache\[N,P,1,4\] .* not \(3, 5, 4\)"):
        write(k, k, cache[:, :, 0], cache.clone(), slot, None)
    with pytest.raises(
        ValueError, match=r"slot\[2\] in int64 is expected, not \(2,\) in torch.int"
    ):
        write(k, k, cache, cache.clone(), slot.int(), None)
    with pytest.raises(ValueError, match=r"k_cache is torch.float16, but must be torch.float32"):
        write(k, k, cache.half(), cache.clone(), slot, None)
    with pytest.raises(ValueError, match=r"with a scale the caches are float8_e4m3fn"):
        write(k, k, cache, cache.clone(), slot, _zeros(2))
    with pytest.raises(ValueError, match=r"scale\[2\] in float32 is expected, not \(1,\)"):
        write(k, k, cache.to(E4M3), cache.to(E4M3), slot, _zeros(1))
    with pytest.raises(ValueError, match=r"k_cache of shape .* has strides"):
        write(k, k, cache.transpose(0, 1), cache.clone(), slot, None)
    with pytest.raises(ValueError, match=r"7 tokens do not fit 2 pages of 3"):
        kv_cache_write.make_inputs(
            problem("kv_cache_write", "bf16", T=7, N=2, P=3, G=1, D=1), torch.Generator(DEVICE)
        )


def test_cost_counts_the_rows_that_are_written() -> None:
    cost = kv_cache_write.OP.cost(problem("kv_cache_write", "bf16", T=3, N=9, P=16, G=2, D=5))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 120 + 24, 120)
    cost = kv_cache_write.OP.cost(problem("kv_cache_write", "fp8", T=3, N=9, P=16, G=2, D=5))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (60, 120 + 24 + 8, 60)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
@pytest.mark.parametrize("T", [64, 8192])
def test_large_caches_agree_with_fp64(dtype: str, T: int) -> None:
    run_triton(kv_cache_write.OP, problem("kv_cache_write", dtype, T=T, N=4096, P=16, G=8, D=128))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
def test_a_slot_beyond_2_to_the_31_elements_is_reached() -> None:
    k = torch.randn(1, 8, 128, device=DEVICE, dtype=torch.bfloat16)
    k_cache = torch.zeros(2**17 + 1, 16, 8, 128, device=DEVICE, dtype=torch.bfloat16)
    v_cache = torch.zeros_like(k_cache)
    kv_cache_write.kv_cache_write(k, -k, k_cache, v_cache, _slots(2**21 + 15), None)
    assert torch.equal(k_cache[-1, 15], k[0])
    assert torch.equal(v_cache[-1, 15], -k[0])
