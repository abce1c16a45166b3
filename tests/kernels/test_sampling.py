import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import sampling
from kernels.op import Mode, problem
from tests.kernels.checks import DEVICE, expected, inputs_of, needs_gpu, run_triton

OP = sampling.OP
VARIANTS = OP.variants


@pytest.mark.parametrize("variant", VARIANTS)
@settings(deadline=None, max_examples=12)
@given(
    V=st.integers(2, 3000),
    dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
    seed=st.integers(0, 2**16),
)
def test_any_vocabulary_agrees_with_fp64(variant: str, V: int, dtype: str, seed: int) -> None:
    case = problem("sampling", dtype, Mode.FORWARD, variant, T=2, V=V)
    inputs = inputs_of(OP, case, seed)
    (ids,) = OP.impl("triton").prepare(case, inputs)()
    assert torch.equal(ids, expected(OP, case, inputs)[0])
    assert torch.equal(ids, OP.impl("torch").prepare(case, inputs)()[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_rounding_of_the_mass_does_not_decide(variant: str, dtype: str) -> None:
    # The nucleus is the same for p a little above and a little below.
    case = problem("sampling", dtype, Mode.FORWARD, variant, T=4, V=9001)
    inputs = inputs_of(OP, case)
    logits = inputs["logits"].double()
    if variant != "top_p":
        ordered = logits.sort(dim=1, descending=True).values
        assert (ordered[:, 49] > ordered[:, 50]).all()
        logits = logits.masked_fill(logits < ordered[:, 49:50], -torch.inf)
    if variant != "top_k":
        probabilities = logits.softmax(dim=1).sort(dim=1, descending=True).values
        before = probabilities.cumsum(dim=1) - probabilities
        assert ((before - sampling.TOP_P).abs() > 1e-3).all()


def _sample(logits: list[float], u: list[float], top_k: int, top_p: float) -> list[int]:
    row = torch.tensor([logits], device=DEVICE).repeat(len(u), 1)
    ids: list[int] = sampling.sampling(row, torch.tensor(u, device=DEVICE), top_k, top_p).tolist()
    return ids


def test_intervals_are_in_the_order_of_the_indices() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()
    assert _sample(logits, [0.0, 0.09, 0.11, 0.49, 0.51, 0.69, 0.71, 0.99], 0, 1.0) == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    # Of the two largest, 4/7 and 3/7.
    assert _sample(logits, [0.0, 0.56, 0.58, 0.99], 2, 1.0) == [1, 1, 3, 3]
    # 0.4 + 0.3 are less than 0.75, so 0.2 is kept as well; 0.4 alone is enough for 0.3.
    assert _sample(logits, [0.5, 0.99], 0, 0.75) == [2, 3]
    assert _sample(logits, [0.0, 0.99], 0, 0.3) == [1, 1]
    # Of the two largest the first alone has 0.57.
    assert _sample(logits, [0.0, 0.99], 2, 0.5) == [1, 1]


def test_ties_at_the_threshold_are_all_kept() -> None:
    assert _sample([1.0, -2.0, 1.0, 1.0], [0.1, 0.5, 0.9], 1, 1.0) == [0, 2, 3]


def test_negative_and_infinite_logits_are_ordered() -> None:
    infinity = float("inf")
    assert _sample([-3.0, -infinity, -1.0, -2.0], [0.0, 0.99], 2, 1.0) == [2, 3]
    assert _sample([-infinity, 0.0, -0.5], [0.0, 0.99], 0, 0.9) == [1, 2]


def test_one_that_is_too_large_gives_the_last_token_kept() -> None:
    assert _sample([0.0, 3.0, 3.0, -5.0], [1.0], 2, 1.0) == [2]


def test_what_the_kernel_cannot_read_is_refused() -> None:
    logits, u = torch.zeros(2, 5, device=DEVICE), torch.zeros(2, device=DEVICE)
    with pytest.raises(ValueError, match=r"u is torch.float16, but must be torch.float32"):
        sampling.sampling(logits, u.half(), 1, 1.0)
    with pytest.raises(ValueError, match=r"expected, not \(2, 5\) and \(1,\)"):
        sampling.sampling(logits, u[:1], 1, 1.0)
    with pytest.raises(ValueError, match=r"logits of shape \(5, 2\) has strides \(1, 5\)"):
        sampling.sampling(logits.T, u, 1, 1.0)
    with pytest.raises(ValueError, match=r"0 < top_p <= 1 are expected, not 1 and 0.0"):
        sampling.sampling(logits, u, 1, 0.0)


def test_cost_by_hand() -> None:
    cost = OP.cost(problem("sampling", "bf16", Mode.FORWARD, "top_k", T=3, V=5))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (60, 30 + 12, 24)


@needs_gpu[0]
@needs_gpu[1]
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_real_vocabularies_agree_with_fp64(dtype: str, variant: str) -> None:
    run_triton(OP, problem("sampling", dtype, Mode.FORWARD, variant, T=64, V=128256))
