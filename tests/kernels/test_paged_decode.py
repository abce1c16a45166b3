import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import paged, paged_decode, tuning
from kernels.op import Problem, problem
from kernels.tuning import Config
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = paged_decode.OP
CONFIGS = sorted(
    {one for configs in paged_decode.TUNABLES[0].configs.values() for one in configs}, key=str
)


def _ragged(case: Problem, lengths: list[int], seed: int = 0) -> dict[str, torch.Tensor]:
    inputs = inputs_of(OP, case, seed)
    inputs["lengths"] = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    return inputs


def _poison(inputs: dict[str, torch.Tensor]) -> None:
    """NaN in every position of the caches that no sequence has."""
    P = inputs["k_cache"].shape[1]
    for pages, length in zip(inputs["page_table"], inputs["lengths"].tolist(), strict=True):
        for number, page in enumerate(pages.tolist()):
            for name in ("k_cache", "v_cache"):
                inputs[name][page, max(length - number * P, 0) :] = float("nan")


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration_agrees_with_fp64(config: Config) -> None:
    with tuning.forced({"paged_decode": config}):
        run_triton(OP, problem("paged_decode", "fp16", B=1, S=1100, H=3, G=1, D=16, P=16))


@pytest.mark.parametrize(
    ("H", "G", "D", "P"), [(1, 1, 1, 1), (8, 8, 16, 64), (20, 1, 33, 3), (80, 1, 16, 128)]
)
@pytest.mark.parametrize("S", [1, 65])
def test_any_shape_agrees_with_fp64(S: int, H: int, G: int, D: int, P: int) -> None:
    run_triton(OP, problem("paged_decode", "fp32", B=2, S=S, H=H, G=G, D=D, P=P))


@settings(deadline=None, max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=2),
    P=st.sampled_from([1, 5, 16, 64]),
    seed=st.integers(0, 9),
)
def test_each_sequence_sees_its_own_length_and_nothing_behind_it(
    lengths: list[int], P: int, seed: int
) -> None:
    case = problem("paged_decode", "fp32", B=len(lengths), S=max(lengths), H=4, G=2, D=8, P=P)
    inputs = _ragged(case, lengths, seed)
    references = expected(OP, case, inputs)
    outputs = OP.impl("torch").prepare(case, inputs)()
    assert_within(outputs, references, OP.tolerance(case))
    _poison(inputs)
    with tuning.forced({"paged_decode": tuning.config(4, 1, BLOCK_N=64, SPLIT=128)}):
        outputs = OP.impl("triton").prepare(case, inputs)()
    assert_within(outputs, references, OP.tolerance(case))


def test_the_order_of_pages_does_not_matter() -> None:
    case = problem("paged_decode", "fp32", B=2, S=75, H=4, G=2, D=16, P=8)
    inputs = inputs_of(OP, case)
    (first,) = OP.impl("triton").prepare(case, inputs)()
    table = inputs["page_table"]
    moved = torch.arange(table.numel(), device=DEVICE, dtype=torch.int32).view_as(table)
    other = inputs | {
        name: inputs[name][table.flatten()] for name in ("k_cache", "v_cache")
    } | {"page_table": moved}  # fmt: skip
    (second,) = OP.impl("triton").prepare(case, other)()
    assert torch.equal(first, second)


def test_head_reads_the_key_value_head_of_its_group() -> None:
    case = problem("paged_decode", "fp32", B=2, S=20, H=6, G=3, D=16, P=8)
    inputs = inputs_of(OP, case)
    groups = torch.arange(3.0, device=DEVICE)[:, None].expand_as(inputs["v_cache"])
    (out,) = OP.impl("triton").prepare(case, inputs | {"v_cache": groups.contiguous()})()
    for head in range(6):
        torch.testing.assert_close(out[:, head], torch.full_like(out[:, head], head // 2))


def test_splits_fill_the_chip_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged, "num_multiprocessors", lambda device: 132)
    cuda = torch.device("cuda")
    # 8 groups of one sequence leave most of 264 places empty: the smallest splits. With 512
    # programs there is work for all.
    assert paged.split_keys(8, 8192, cuda) == 256
    assert paged.split_keys(64, 8192, cuda) == 2048
    assert paged.split_keys(2048, 8192, cuda) == 8192


def test_what_the_kernel_cannot_read_is_refused() -> None:
    case = problem("paged_decode", "fp32", B=2, S=20, H=6, G=3, D=16, P=8)
    inputs = inputs_of(OP, case)
    names = ("q", "k_cache", "v_cache", "page_table", "lengths")

    def run(**other: torch.Tensor) -> None:
        paged_decode.paged_decode(*((inputs | other)[name] for name in names))

    with pytest.raises(ValueError, match=r"H a multiple of G are expected, not \(2, 5, 16\)"):
        run(q=inputs["q"][:, :5].contiguous())
    with pytest.raises(ValueError, match=r"page_table is torch.int64, but must be torch.int32"):
        run(page_table=inputs["page_table"].long())
    with pytest.raises(ValueError, match=r"lengths\[B\] with B=2 are expected"):
        run(lengths=inputs["lengths"][:1])
    with pytest.raises(ValueError, match=r"v_cache is torch.float16, but must be torch.float32"):
        run(v_cache=inputs["v_cache"].half())
    with pytest.raises(ValueError, match=r"k_cache of shape .* has strides"):
        run(k_cache=inputs["k_cache"].transpose(1, 2))
    with pytest.raises(ValueError, match=r"has no page"):
        run(k_cache=inputs["k_cache"][:0], v_cache=inputs["v_cache"][:0])


def test_too_large_a_head_is_unsupported_with_the_limit() -> None:
    case = problem("paged_decode", "fp16", B=1, S=1, H=1, G=1, D=257, P=16)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    assert reason == "A head is held in registers, which ends at 256 values; D=257."


def test_cost_by_hand() -> None:
    cost = OP.cost(problem("paged_decode", "bf16", B=2, S=9, H=6, G=3, D=5, P=4))
    assert cost.flops == 4 * 2 * 9 * 6 * 5
    # q, two caches, three pages for each sequence and its length.
    assert cost.bytes_read == 2 * (2 * 6 * 5 + 2 * 2 * 9 * 3 * 5) + 4 * (2 * 3 + 2)
    assert cost.bytes_written == 2 * 2 * 6 * 5


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    ("B", "S", "H", "G", "D", "P"),
    [(16, 8192, 32, 8, 128, 16), (4, 10240, 80, 8, 128, 64), (64, 1000, 8, 1, 128, 16),
     (3, 5001, 32, 2, 256, 64), (1, 131072, 64, 8, 64, 16)],
)  # fmt: skip
def test_shapes_of_models_agree_with_fp64(
    B: int, S: int, H: int, G: int, D: int, P: int, dtype: str
) -> None:
    run_triton(OP, problem("paged_decode", dtype, B=B, S=S, H=H, G=G, D=D, P=P))
