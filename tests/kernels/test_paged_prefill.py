import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import paged_prefill, tuning
from kernels.op import problem
from kernels.tuning import Config
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = paged_prefill.OP
CONFIGS = sorted(
    {one for configs in paged_prefill.TUNABLES[0].configs.values() for one in configs}, key=str
)


@pytest.mark.parametrize("P", [16, 64])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration_agrees_with_fp64(config: Config, P: int) -> None:
    with tuning.forced({"paged_prefill": config}):
        run_triton(OP, problem("paged_prefill", "fp16", B=1, Q=70, S=201, H=2, G=1, D=16, P=P))


@pytest.mark.parametrize(
    ("Q", "H", "G", "D", "P"),
    [(1, 1, 1, 1, 1), (5, 12, 3, 24, 7), (65, 4, 4, 33, 3), (3, 20, 1, 16, 128)],
)
@pytest.mark.parametrize("more", [0, 75])
def test_any_shape_agrees_with_fp64(Q: int, more: int, H: int, G: int, D: int, P: int) -> None:
    run_triton(OP, problem("paged_prefill", "fp32", B=2, Q=Q, S=Q + more, H=H, G=G, D=D, P=P))


@settings(deadline=None, max_examples=8)
@given(
    Q=st.integers(1, 30),
    more=st.lists(st.integers(0, 60), min_size=1, max_size=2),
    P=st.sampled_from([1, 5, 16, 64]),
)
def test_each_sequence_sees_its_own_length_and_nothing_behind_it(
    Q: int, more: list[int], P: int
) -> None:
    lengths = [Q + one for one in more]
    case = problem("paged_prefill", "fp32", B=len(lengths), Q=Q, S=max(lengths), H=4, G=2, D=8, P=P)
    inputs = inputs_of(OP, case)
    inputs["lengths"] = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    references = expected(OP, case, inputs)
    assert_within(OP.impl("torch").prepare(case, inputs)(), references, OP.tolerance(case))
    for pages, length in zip(inputs["page_table"].tolist(), lengths, strict=True):
        for number, page in enumerate(pages):
            for name in ("k_cache", "v_cache"):
                inputs[name][page, max(length - number * P, 0) :] = float("nan")
    outputs = OP.impl("triton").prepare(case, inputs)()
    assert_within(outputs, references, OP.tolerance(case))


def test_what_the_kernel_cannot_read_is_refused() -> None:
    case = problem("paged_prefill", "fp32", B=2, Q=3, S=20, H=6, G=3, D=16, P=8)
    inputs = inputs_of(OP, case)
    names = ("q", "k_cache", "v_cache", "page_table", "lengths")

    def run(**other: torch.Tensor) -> None:
        paged_prefill.paged_prefill(*((inputs | other)[name] for name in names))

    with pytest.raises(ValueError, match=r"H a multiple of G are expected, not \(2, 5, 3, 16\)"):
        run(q=inputs["q"][:, :5].contiguous())
    with pytest.raises(ValueError, match=r"Q=25 queries .* 3 pages of 8 holds 24"):
        run(q=torch.zeros(2, 6, 25, 16, device=DEVICE))
    with pytest.raises(ValueError, match=r"page_table is torch.int64, but must be torch.int32"):
        run(page_table=inputs["page_table"].long())
    with pytest.raises(ValueError, match=r"v_cache is torch.float16, but must be torch.float32"):
        run(v_cache=inputs["v_cache"].half())


def test_too_large_a_head_is_unsupported_with_the_limit() -> None:
    case = problem("paged_prefill", "fp16", B=1, Q=1, S=1, H=1, G=1, D=257, P=16)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    assert reason == "A head is held in registers, which ends at 256 values; D=257."


@pytest.mark.parametrize(("Q", "S"), [(1, 9), (4, 4), (4, 9)])
def test_cost_counts_the_visible_pairs(Q: int, S: int) -> None:
    cost = OP.cost(problem("paged_prefill", "bf16", B=2, Q=Q, S=S, H=6, G=3, D=5, P=4))
    num_pairs = sum(key <= query + S - Q for query in range(Q) for key in range(S))
    assert cost.flops == 2 * 6 * num_pairs * 4 * 5
    assert cost.bytes_read == 2 * (2 * 6 * Q * 5 + 2 * 2 * S * 3 * 5) + 4 * 2 * (-(-S // 4) + 1)
    assert cost.bytes_written == 2 * 2 * 6 * Q * 5


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(("D", "P"), [(64, 16), (128, 16), (128, 64), (256, 16)])
@pytest.mark.parametrize(("Q", "S"), [(1024, 1024), (512, 5001), (4, 1000)])
def test_shapes_of_models_agree_with_fp64(Q: int, S: int, D: int, P: int, dtype: str) -> None:
    run_triton(OP, problem("paged_prefill", dtype, B=2, Q=Q, S=S, H=8, G=2, D=D, P=P))
