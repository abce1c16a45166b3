from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.measure.correctness import compare
from kernels import dense_layer
from kernels.layer.operations import CUSTOM, EXACT
from kernels.op import Mode, Outputs, Problem, problem
from tests.kernels.checks import (
    DEVICE,
    assert_within,
    expected,
    inputs_of,
    needs_gpu,
    odd_problem,
    run_triton,
)

OP, BLOCK = dense_layer.OP, dense_layer.BLOCK
TINY = {"B": 1, "S": 2, "H": 3, "A": 2, "G": 1, "D": 4, "F": 5}


@pytest.mark.parametrize("variant", OP.variants)
# A failing example is as small as it gets, and shrinking one takes minutes in the interpreter.
@settings(deadline=None, max_examples=4, phases=[Phase.generate])
@given(
    B=st.integers(1, 2), S=st.integers(1, 9), G=st.integers(1, 2), group=st.integers(1, 3),
    H=st.integers(8, 33), half=st.integers(4, 12), F=st.integers(8, 33),
)  # fmt: skip
def test_prefill_of_any_shape_agrees_with_fp64(
    variant: str, B: int, S: int, G: int, group: int, H: int, half: int, F: int
) -> None:
    sizes = {"B": B, "S": S, "H": H, "A": group * G, "G": G, "D": 2 * half, "F": F}
    run_triton(OP, problem("dense_layer", "fp32", Mode.PREFILL, variant, **sizes))


@pytest.mark.parametrize("variant", OP.variants)
def test_decoding_goes_on_where_prefill_ended(variant: str) -> None:
    whole = odd_problem(OP, "fp32", Mode.PREFILL, variant)
    B, S = whole["B"], whole["S"]
    inputs = inputs_of(OP, whole)
    y, k, v = OP.reference(whole, inputs)

    def last(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(B, S, -1)[:, -1].contiguous()

    by_token = {name: last(inputs[name]) for name in ("x", "cos", "sin") if name in inputs}
    caches = {"k_cache": k.clone(), "v_cache": v.clone()}
    for cache in caches.values():
        cache[:, -1] = torch.nan
    decode = replace(whole, mode=Mode.DECODE)
    for operations in (EXACT, CUSTOM):
        found, new_k, new_v = BLOCK.forward(decode, operations, {**inputs, **by_token, **caches})
        torch.testing.assert_close(found, last(y), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new_k, k[:, -1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new_v, v[:, -1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(caches["k_cache"], k, rtol=1e-4, atol=1e-5)


def rounded(case: Problem, outputs: Outputs) -> list[torch.Tensor]:
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return [
        output.to(types[tolerance.dtype])
        for output, tolerance in zip(outputs, OP.tolerance(case), strict=True)
    ]


@pytest.mark.parametrize("variant", OP.variants)
def test_a_step_that_leaves_anything_as_it_was_is_wrong(variant: str) -> None:
    sizes = {"B": 1, "S": 128, "H": 128, "A": 4, "G": 2, "D": 32, "F": 192}
    case = problem("dense_layer", "bf16", Mode.TRAINING, variant, **sizes)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    right = rounded(case, references)
    assert_within(tuple(right), references, OP.tolerance(case))
    before = rounded(case, (inputs["x"], inputs["dy"], *BLOCK.judged(case, inputs)))
    # One update moves few of the rounded weights, so of the last output nothing is asked here.
    for index in range(len(right) - 1):
        wrong = (*right[:index], before[index], *right[index + 1 :])
        found = compare(wrong, references, OP.tolerance(case))
        assert not found.is_right, f"output {index + 1} of {len(right)}"


@pytest.mark.parametrize("mode", OP.modes)
def test_attention_that_misses_the_newest_key_is_wrong(mode: Mode) -> None:
    case = problem("dense_layer", "bf16", mode, "gated", B=1, S=64, H=64, A=2, G=1, D=32, F=96)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        v = torch.cat((v[:, :, :-1], torch.zeros_like(v[:, :, -1:])), dim=2)
        return EXACT.attention(q, k, v)

    def cached_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        v = torch.cat((v[:, :-1], torch.zeros_like(v[:, -1:])), dim=1)
        return EXACT.cached_attention(q, k, v)

    block = replace(
        BLOCK,
        forward=lambda case, operations, tensors: BLOCK.forward(
            case,
            replace(operations, attention=attention, cached_attention=cached_attention),
            tensors,
        ),
    )
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    wrong = rounded(case, block.reference(case, exact))
    assert not compare(tuple(wrong), references, OP.tolerance(case)).is_right


def test_what_cannot_run_is_told_by_the_part_that_cannot() -> None:
    case = problem("dense_layer", "fp16", Mode.PREFILL, "gated", **{**TINY, "D": 1024})
    assert "D=1024" in str(OP.impl("triton").unsupported(case, DEVICE))


def test_parts_are_what_the_layer_is_composed_of() -> None:
    case = problem("dense_layer", "bf16", Mode.TRAINING, "gated", **TINY)
    groups = [part.group.replace(".bf16", "") for part in BLOCK.parts(case)]
    forward = [
        *("rms_norm.forward", "gemm.forward", "rope.forward", "rope.forward"),
        *("attention.forward.causal", "gemm.forward", "add_rms_norm.forward"),
        *("gemm.forward", "swiglu.forward", "gemm.forward", "add.forward"),
    ]
    assert groups[: len(forward)] == forward
    assert sorted(groups[len(forward) :]) == sorted(
        [
            *("rms_norm.backward", "rope.backward", "rope.backward", "attention.backward.causal"),
            *("add_rms_norm.backward", "swiglu.backward", "adamw.forward"),
            *4 * ["gemm.dgrad", "gemm.wgrad"],
        ]
    )


# T = 2, H = 3, qkv of (2 + 2) heads of 4 = 16 rows; 6 + 48 + 24 + 30 + 15 weights.
NUM_WEIGHTS = 2 * 3 + 16 * 3 + 3 * 8 + 10 * 3 + 3 * 5
GEMM_FLOPS = 2 * 2 * (16 * 3 + 3 * 8 + 10 * 3 + 3 * 5)
ATTENTION_FLOPS = 2 * (4 + 4) * 2 * 3


def test_cost_of_prefill_by_hand() -> None:
    cost = OP.cost(problem("dense_layer", "bf16", Mode.PREFILL, "gated", **TINY))
    # Norms 4 and 5 a value, rotation 3, SwiGLU 5, the last sum 1.
    others = 6 * (4 + 5 + 1) + 3 * (16 + 8) + 5 * 10
    assert cost.flops == GEMM_FLOPS + ATTENTION_FLOPS + others
    # x, weights and two tables of 2 fp32 angles for 2 tokens; y, and k and v of 2 tokens.
    assert cost.bytes_read == 2 * (6 + NUM_WEIGHTS) + 4 * 8
    assert cost.bytes_written == 2 * (6 + 2 * 2 * 4)


def test_cost_of_training_by_hand() -> None:
    cost = OP.cost(problem("dense_layer", "bf16", Mode.TRAINING, "gated", **TINY))
    others = 6 * (4 + 11 + 5 + 12 + 1) + 2 * 3 * (16 + 8) + (5 + 11) * 10 + 14 * NUM_WEIGHTS
    assert cost.flops == 3 * (GEMM_FLOPS + ATTENTION_FLOPS) + others
    # x and dy; y and dx; weights in both types, both moments.
    assert cost.bytes_read == 2 * (6 + 6 + NUM_WEIGHTS) + 4 * 8 + 12 * NUM_WEIGHTS
    assert cost.bytes_written == 2 * (6 + 6 + NUM_WEIGHTS) + 12 * NUM_WEIGHTS


def test_cost_of_decoding_by_hand() -> None:
    cost = OP.cost(problem("dense_layer", "bf16", Mode.DECODE, "gated", **TINY))
    # One token; of two keys and values one is read from the cache and one is written.
    assert cost.bytes_read == 2 * (3 + NUM_WEIGHTS + 2 * 4) + 4 * 4
    assert cost.bytes_written == 2 * (3 + 2 * 4)


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=needs_gpu) for mode in OP.modes])
@pytest.mark.parametrize("variant", OP.variants)
@pytest.mark.parametrize("impl", ["torch", "compile", "triton"])
def test_a_layer_of_llama_3_8b_agrees_with_fp64(mode: Mode, variant: str, impl: str) -> None:
    sizes = {"B": 2, "S": 1024, "H": 4096, "A": 32, "G": 8, "D": 128, "F": 14336}
    case = problem("dense_layer", "bf16", mode, variant, **sizes)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    assert_within(OP.impl(impl).prepare(case, inputs)(), references, OP.tolerance(case))
