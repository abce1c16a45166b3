from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.measure.correctness import compare
from kernels import latent_layer, latent_moe_layer
from kernels.layer.operations import CUSTOM, EXACT, TORCH
from kernels.op import Mode, Op, problem
from tests.kernels.checks import (
    assert_within,
    expected,
    inputs_of,
    needs_gpu,
    odd_problem,
    run_triton,
)

OP, BLOCK = latent_layer.OP, latent_layer.BLOCK
TINY = {"B": 1, "S": 2, "H": 3, "A": 2, "Q": 5, "C": 6, "N": 4, "R": 2, "V": 3, "F": 7}


# A failing example is as small as it gets, and shrinking one takes minutes in the interpreter.
@settings(deadline=None, max_examples=4, phases=[Phase.generate])
@given(
    mode=st.sampled_from((Mode.PREFILL, Mode.DECODE)), B=st.integers(1, 2), S=st.integers(1, 9),
    A=st.integers(1, 3), H=st.integers(8, 33), C=st.integers(4, 40), N=st.integers(4, 20),
    half=st.integers(2, 8), V=st.integers(4, 20),
)  # fmt: skip
def test_inference_of_any_shape_agrees_with_fp64(
    mode: Mode, B: int, S: int, A: int, H: int, C: int, N: int, half: int, V: int
) -> None:
    sizes = {"B": B, "S": S, "H": H, "A": A, "Q": 13, "C": C, "N": N, "R": 2 * half, "V": V}
    run_triton(OP, problem("latent_layer", "fp32", mode, **sizes, F=11))


def test_decoding_the_latent_cache_is_prefill_of_expanded_heads() -> None:
    whole = odd_problem(OP, "fp32", Mode.PREFILL)
    B, S = whole["B"], whole["S"]
    inputs = inputs_of(OP, whole)
    y, kept = OP.reference(whole, inputs)

    def last(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(B, S, -1)[:, -1].contiguous()

    by_token = {name: last(inputs[name]) for name in ("x", "cos", "sin")}
    cache = kept.clone()
    cache[:, -1] = torch.nan
    decode = replace(whole, mode=Mode.DECODE)
    for operations in (EXACT, TORCH, CUSTOM):
        tensors = {**inputs, **by_token, "latent_cache": cache.clone()}
        found, new = BLOCK.forward(decode, operations, tensors)
        torch.testing.assert_close(found, last(y), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(new, kept[:, -1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tensors["latent_cache"], kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left_out", ["query_norm", "latent_norm", "rope"])
@pytest.mark.parametrize("mode", OP.modes)
def test_a_norm_or_rotation_that_is_left_out_is_wrong(mode: Mode, left_out: str) -> None:
    sizes = {"B": 1, "S": 64, "H": 64, "A": 2, "Q": 48, "C": 40, "N": 16, "R": 16, "V": 16}
    case = problem("latent_layer", "bf16", mode, **sizes, F=96)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    exact = {name: tensor.double() for name, tensor in inputs.items()}

    def forward(case, operations, tensors):  # type: ignore[no-untyped-def]
        if left_out == "rope":
            operations = replace(operations, rope=lambda x, cos, sin: x)
        else:
            tensors = {**tensors, left_out: torch.ones_like(tensors[left_out])}
        return BLOCK.forward(case, operations, tensors)

    block = replace(BLOCK, forward=forward)
    if mode == Mode.TRAINING and left_out != "rope":
        # Its gradient would be missing, which is no result at all.
        with pytest.raises(RuntimeError, match="not have been used"):
            block.reference(case, exact)
        return
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    wrong = [
        output.to(types[tolerance.dtype])
        for output, tolerance in zip(block.reference(case, exact), OP.tolerance(case), strict=True)
    ]
    assert not compare(tuple(wrong), references, OP.tolerance(case)).is_right


# T = 2, H = 3: queries 5 x 3 and 12 x 5, latents 8 x 3, heads of 4 and 3 from 6, out 3 x 6.
UP = 2 * 4 * 6 + 2 * 3 * 6
MATRICES = 5 * 3 + 12 * 5 + 8 * 3 + UP + 3 * 6 + 14 * 3 + 3 * 7
NUM_WEIGHTS = MATRICES + 3 + 5 + 6 + 3


def test_cost_of_prefill_by_hand() -> None:
    cost = OP.cost(problem("latent_layer", "bf16", Mode.PREFILL, **TINY))
    # Norms 4 and 5 a value, rotation 3 of two heads and the shared keys, SwiGLU 5, the last sum 1.
    others = 6 * (4 + 5 + 1) + 4 * 2 * (5 + 6) + 3 * (8 + 4) + 5 * 14
    assert cost.flops == 2 * 2 * MATRICES + 2 * (6 + 3) * 2 * 3 + others
    # x, weights and two tables of 1 fp32 angle for 2 tokens; y, and 6 + 2 values of 2 tokens.
    assert cost.bytes_read == 2 * (6 + NUM_WEIGHTS) + 4 * 4
    assert cost.bytes_written == 2 * (6 + 16)


def test_cost_of_decoding_by_hand() -> None:
    cost = OP.cost(problem("latent_layer", "bf16", Mode.DECODE, **TINY))
    others = 3 * (4 + 5 + 1) + 4 * (5 + 6) + 3 * (4 + 2) + 5 * 7
    # One token, whose 2 heads see 2 latents; the products of heads have as many weights as before.
    assert cost.flops == 2 * MATRICES + 2 * (2 * 6 + 2) * 2 * 2 + others
    assert cost.bytes_read == 2 * (3 + NUM_WEIGHTS + 8) + 4 * 2
    assert cost.bytes_written == 2 * (3 + 8)


DEEPSEEK = {"B": 2, "S": 1024, "H": 7168, "A": 16, "Q": 1536, "C": 512, "N": 128, "R": 64, "V": 128}


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=needs_gpu) for mode in OP.modes])
@pytest.mark.parametrize(
    ("op", "sizes"),
    [(OP, {"F": 2304}), (latent_moe_layer.OP, {"E": 32, "K": 8, "F": 256, "W": 256})],
    ids=("dense", "experts"),
)
@pytest.mark.parametrize("impl", ["torch", "compile", "triton"])
def test_a_layer_of_deepseek_v3_on_one_of_8_chips_agrees_with_fp64(
    mode: Mode, op: Op, sizes: dict[str, int], impl: str
) -> None:
    case = problem(op.name, "bf16", mode, **DEEPSEEK, **sizes)
    inputs = inputs_of(op, case)
    references = expected(op, case, inputs)
    assert_within(op.impl(impl).prepare(case, inputs)(), references, op.tolerance(case))
