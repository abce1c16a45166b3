import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import mla_prefill, tuning
from kernels.op import problem
from kernels.tuning import Config
from tests.kernels.checks import DEVICE, inputs_of, needs_gpu, run_triton

OP = mla_prefill.OP
CONFIGS = sorted(
    {one for configs in mla_prefill.TUNABLES[0].configs.values() for one in configs}, key=str
)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration_agrees_with_fp64(config: Config) -> None:
    with tuning.forced({"mla_prefill": config}):
        run_triton(
            OP, problem("mla_prefill", "fp16", B=1, Q=150, S=301, H=2, N=24, R=8, V=17)
        )  # fmt: skip


@settings(deadline=None, max_examples=12)
@given(
    Q=st.integers(1, 40), more=st.integers(0, 70), N=st.integers(1, 40), R=st.integers(1, 20),
    V=st.integers(1, 40),
)  # fmt: skip
def test_any_shape_agrees_with_fp64(Q: int, more: int, N: int, R: int, V: int) -> None:
    run_triton(OP, problem("mla_prefill", "fp32", B=1, Q=Q, S=Q + more, H=2, N=N, R=R, V=V))


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize(("Q", "S"), [(7, 7), (3, 7), (1, 7), (20, 23)])
def test_query_sees_keys_up_to_its_own_position(Q: int, S: int, impl: str) -> None:
    case = problem("mla_prefill", "fp32", B=1, Q=Q, S=S, H=2, N=16, R=8, V=S)
    inputs = inputs_of(OP, case)
    # With the identity as values, the output is the probabilities themselves.
    inputs["v"] = torch.eye(S, device=DEVICE).expand(1, 2, S, S).contiguous()
    (out,) = OP.impl(impl).prepare(case, inputs)()
    for query in range(Q):
        last = query + S - Q
        assert (out[0, :, query, : last + 1] > 0).all()
        assert (out[0, :, query, last + 1 :] == 0).all()


def test_what_the_kernel_cannot_read_is_refused() -> None:
    case = problem("mla_prefill", "fp32", B=2, Q=3, S=5, H=2, N=16, R=8, V=16)
    q, k_nope, k_rope, v = inputs_of(OP, case).values()
    with pytest.raises(ValueError, match=r"with Q <= S are expected, not \(2, 2, 3, 23\)"):
        mla_prefill.mla_prefill(q[..., :23].contiguous(), k_nope, k_rope, v)
    with pytest.raises(ValueError, match=r"with Q <= S are expected"):
        mla_prefill.mla_prefill(q, *(t[..., :2, :].contiguous() for t in (k_nope, k_rope, v)))
    with pytest.raises(ValueError, match=r"with Q <= S are expected"):
        mla_prefill.mla_prefill(q, k_nope, k_rope[None], v)
    with pytest.raises(ValueError, match=r"v is torch.float16, but must be torch.float32"):
        mla_prefill.mla_prefill(q, k_nope, k_rope, v.half())


def test_too_wide_a_head_is_unsupported_with_the_limit() -> None:
    case = problem("mla_prefill", "fp16", B=1, Q=1, S=1, H=1, N=192, R=64, V=128)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    assert reason is not None
    assert reason.endswith("which ends at 128 values; N=192 R=64 V=128.")


@pytest.mark.parametrize(("Q", "S"), [(1, 9), (4, 4), (4, 9)])
def test_cost_counts_the_visible_pairs_and_shared_keys_once(Q: int, S: int) -> None:
    cost = OP.cost(problem("mla_prefill", "bf16", B=2, Q=Q, S=S, H=6, N=5, R=3, V=7))
    num_pairs = sum(key <= query + S - Q for query in range(Q) for key in range(S))
    assert cost.flops == 2 * 6 * num_pairs * 2 * (5 + 3 + 7)
    assert cost.bytes_read == 2 * 2 * (6 * Q * 8 + 6 * S * (5 + 7) + S * 3)
    assert cost.bytes_written == 2 * 2 * 6 * Q * 7


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("Q", "S"), [(2048, 2048), (513, 2000), (1, 1000)])
def test_heads_of_deepseek_agree_with_fp64(Q: int, S: int, dtype: str) -> None:
    run_triton(OP, problem("mla_prefill", dtype, B=1, Q=Q, S=S, H=16, N=128, R=64, V=128))
