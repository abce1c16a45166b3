import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import mla_decode, triton_support, tuning
from kernels.op import problem
from kernels.tuning import Config
from tests.kernels.checks import DEVICE, assert_within, expected, inputs_of, needs_gpu, run_triton

OP = mla_decode.OP
CONFIGS = sorted(
    {one for configs in mla_decode.TUNABLES[0].configs.values() for one in configs}, key=str
)
SMALL = tuning.config(4, 1, BLOCK_H=16, BLOCK_N=16, SPLIT=64)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_configuration_agrees_with_fp64(config: Config) -> None:
    with tuning.forced({"mla_decode": config}):
        run_triton(OP, problem("mla_decode", "fp16", B=1, S=530, H=17, C=40, R=8, P=64))


@pytest.mark.parametrize(
    ("H", "C", "R", "P"), [(1, 1, 1, 1), (16, 64, 16, 64), (3, 33, 64, 3), (3, 512, 64, 16)]
)
@pytest.mark.parametrize("S", [1, 65])
def test_any_shape_agrees_with_fp64(S: int, H: int, C: int, R: int, P: int) -> None:
    run_triton(OP, problem("mla_decode", "fp32", B=2, S=S, H=H, C=C, R=R, P=P))


@settings(deadline=None, max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=2),
    P=st.sampled_from([1, 5, 16, 64]),
)
def test_each_sequence_sees_its_own_length_and_nothing_behind_it(
    lengths: list[int], P: int
) -> None:
    case = problem("mla_decode", "fp32", B=len(lengths), S=max(lengths), H=3, C=20, R=4, P=P)
    inputs = inputs_of(OP, case)
    inputs["lengths"] = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    references = expected(OP, case, inputs)
    assert_within(OP.impl("torch").prepare(case, inputs)(), references, OP.tolerance(case))
    for pages, length in zip(inputs["page_table"].tolist(), lengths, strict=True):
        for number, page in enumerate(pages):
            inputs["cache"][page, max(length - number * P, 0) :] = float("nan")
    with tuning.forced({"mla_decode": SMALL}):
        outputs = OP.impl("triton").prepare(case, inputs)()
    assert_within(outputs, references, OP.tolerance(case))


def test_it_is_attention_of_the_heads_before_absorption() -> None:
    # Whatever the head's own keys are, q_nope . (W_UK c) = (q_nope W_UK) . c.
    H, N, C, R, S = 2, 128, 24, 8, 19
    case = problem("mla_decode", "fp32", B=1, S=S, H=H, C=C, R=R, P=S)
    inputs = inputs_of(OP, case)
    q_nope = torch.randn(H, N, device=DEVICE)
    w_uk = torch.randn(H, N, C, device=DEVICE) / C**0.5
    inputs["q_latent"] = torch.einsum("hn,hnc->hc", q_nope, w_uk)[None].contiguous()
    (out,) = OP.impl("triton").prepare(case, inputs)()
    latent, rope = inputs["cache"][0].split([C, R], dim=-1)
    keys = torch.cat(
        (torch.einsum("hnc,sc->hsn", w_uk, latent), rope.expand(H, S, R)), dim=-1
    )  # fmt: skip
    query = torch.cat((q_nope, inputs["q_rope"][0]), dim=-1)
    probabilities = torch.softmax(torch.einsum("hd,hsd->hs", query, keys) / (N + R) ** 0.5, -1)
    torch.testing.assert_close(out[0], probabilities @ latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("P", [1, 16, 64])
@pytest.mark.parametrize("H", [16, 128])
@pytest.mark.parametrize(
    "families",
    [("sm_80", "cuda"), ("sm_90", "cuda"), ("sm_100", "cuda"), ("sm_89", "cuda_99k"),
     ("gfx942", "hip")],
)  # fmt: skip
def test_what_is_taken_untuned_is_compiled_ahead(
    families: tuple[str, str], H: int, P: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_support, "families", lambda device: families)
    taken = mla_decode._heuristic(4, 4096, H, P, dtype, torch.device("cpu"))
    is_fp32 = dtype == torch.float32
    wanted = dict(taken.blocks) | {"P": 64 if is_fp32 and P == 16 else P}
    del wanted["SPLIT"]
    assert any(
        set(families) & set(one.families)
        and one.signature.get("cache_ptr") == ("*fp32:16" if is_fp32 else "*bf16:16")
        and one.constexprs.items() >= wanted.items()
        and (one.num_warps, one.num_stages) == (taken.num_warps, taken.num_stages)
        for one in mla_decode.AOT
    )


def test_what_the_kernel_cannot_read_is_refused() -> None:
    case = problem("mla_decode", "fp32", B=2, S=20, H=3, C=16, R=8, P=8)
    inputs = inputs_of(OP, case)
    names = ("q_latent", "q_rope", "cache", "page_table", "lengths")

    def run(**other: torch.Tensor) -> None:
        mla_decode.mla_decode(*((inputs | other)[name] for name in names))

    with pytest.raises(ValueError, match=r"cache\[num_pages,P,C\+R\] are expected, not \(2, 3, 16"):
        run(cache=inputs["cache"][:, :, :20].contiguous())
    with pytest.raises(ValueError, match=r"q_rope is torch.float16, but must be torch.float32"):
        run(q_rope=inputs["q_rope"].half())
    with pytest.raises(ValueError, match=r"lengths is torch.int64, but must be torch.int32"):
        run(lengths=inputs["lengths"].long())


def test_too_wide_a_latent_is_unsupported_with_the_limit() -> None:
    case = problem("mla_decode", "fp16", B=1, S=1, H=1, C=513, R=64, P=16)
    reason = OP.impl("triton").unsupported(case, DEVICE)
    assert reason is not None
    assert reason.endswith("which ends at C=512 and R=64; C=513 R=64.")


def test_cost_by_hand() -> None:
    cost = OP.cost(problem("mla_decode", "bf16", B=2, S=9, H=6, C=5, R=3, P=4))
    assert cost.flops == 2 * 2 * 9 * 6 * (5 + 3 + 5)
    # Queries, one cache for all heads, three pages for each sequence and its length.
    assert cost.bytes_read == 2 * (2 * 6 * 8 + 2 * 9 * 8) + 4 * (2 * 3 + 2)
    assert cost.bytes_written == 2 * 2 * 6 * 5


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    ("B", "S", "H", "P"), [(32, 4096, 128, 64), (64, 5001, 16, 64), (2, 1000, 16, 1)]
)
def test_shapes_of_models_agree_with_fp64(B: int, S: int, H: int, P: int, dtype: str) -> None:
    run_triton(OP, problem("mla_decode", dtype, B=B, S=S, H=H, C=512, R=64, P=P))
