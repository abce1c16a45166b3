from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from harness.measure.correctness import compare
from kernels import latent_moe_layer, moe_layer
from kernels.layer.operations import EXACT
from kernels.op import Mode, Op, Outputs, Problem, problem
from kernels.routing import draw_choices
from tests.kernels.checks import (
    DEVICE,
    assert_within,
    expected,
    inputs_of,
    needs_gpu,
    odd_problem,
    run_triton,
)

OP, BLOCK = moe_layer.OP, moe_layer.BLOCK
TINY = {"B": 1, "S": 2, "H": 3, "A": 2, "G": 1, "D": 4, "E": 6, "K": 2, "F": 5}
WITH_EXPERTS = (moe_layer.OP, latent_moe_layer.OP)


# A failing example is as small as it gets, and shrinking one takes minutes in the interpreter.
@settings(deadline=None, max_examples=3, phases=[Phase.generate])
@given(
    B=st.integers(1, 2), S=st.integers(1, 7), H=st.integers(8, 33), E=st.integers(3, 9),
    K=st.integers(1, 3), F=st.integers(8, 33),
)  # fmt: skip
def test_prefill_of_any_shape_agrees_with_fp64(
    B: int, S: int, H: int, E: int, K: int, F: int
) -> None:
    sizes = {"B": B, "S": S, "H": H, "A": 2, "G": 1, "D": 8, "E": E, "K": K, "F": F}
    run_triton(OP, problem("moe_layer", "fp32", Mode.PREFILL, **sizes))


def test_experts_without_tokens_keep_their_state() -> None:
    case = problem("moe_layer", "fp32", Mode.TRAINING, **TINY)
    inputs = inputs_of(OP, case)
    moments = BLOCK.views(case, inputs["exp_avg"])["expert_down"]
    before = moments.clone()
    OP.impl("triton").prepare(case, inputs)()
    # Two tokens have two experts each, so that two of six have none.
    is_decayed = torch.isclose(moments, 0.9 * before, rtol=1e-5, atol=0).flatten(1).all(1)
    assert int(is_decayed.sum()) == 2


@settings(deadline=None, max_examples=20)
@given(T=st.integers(1, 70), E=st.integers(1, 40), K=st.integers(1, 8), seed=st.integers(0, 9))
def test_choices_are_balanced_and_apart(T: int, E: int, K: int, seed: int) -> None:
    K = min(E, K)
    routing = draw_choices(T, E, K, torch.Generator().manual_seed(seed))
    best = routing.topk(K, dim=-1)
    counts = torch.bincount(best.indices.flatten(), minlength=E)
    assert int(counts.max() - counts.min()) <= 1
    assert bool((best.values >= 2).all())
    assert int((routing >= 0).sum()) == T * K


def test_more_experts_of_a_token_than_there_are_is_refused() -> None:
    case = problem("moe_layer", "fp32", Mode.PREFILL, **{**TINY, "K": 7})
    with pytest.raises(ValueError, match="cannot choose K=7 of E=6 experts"):
        inputs_of(OP, case)


def rounded(op: Op, case: Problem, outputs: Outputs) -> list[torch.Tensor]:
    types = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return [
        output.to(types[tolerance.dtype])
        for output, tolerance in zip(outputs, op.tolerance(case), strict=True)
    ]


def sizes_of(op: Op) -> dict[str, int]:
    sizes = {"B": 1, "S": 128, "H": 128, "A": 4, "G": 2, "D": 32, "E": 16, "K": 4, "F": 64}
    sizes |= {"Q": 64, "C": 64, "N": 32, "R": 16, "V": 32, "W": 64}
    return {axis: sizes[axis] for axis in op.axes}


@pytest.mark.parametrize("op", WITH_EXPERTS, ids=lambda op: op.name)
def test_a_step_that_leaves_anything_as_it_was_is_wrong(op: Op) -> None:
    block = moe_layer.BLOCK if op is OP else latent_moe_layer.BLOCK
    case = problem(op.name, "bf16", Mode.TRAINING, **sizes_of(op))
    inputs = inputs_of(op, case)
    references = expected(op, case, inputs)
    right = rounded(op, case, references)
    assert_within(tuple(right), references, op.tolerance(case))
    before = rounded(op, case, (inputs["x"], inputs["dy"], *block.judged(case, inputs)))
    # One update moves few of the rounded weights, so of the last output nothing is asked here.
    checked = zip(before, references, op.tolerance(case), strict=True)
    for index, (wrong, reference, tolerance) in enumerate([*checked][:-1]):
        found = compare((wrong,), (reference,), (tolerance,))
        assert not found.is_right, f"output {index + 1} of {len(right)}"


@pytest.mark.parametrize("mode", OP.modes)
@pytest.mark.parametrize("op", WITH_EXPERTS, ids=lambda op: op.name)
def test_tokens_that_go_to_the_next_expert_are_wrong(op: Op, mode: Mode) -> None:
    block = moe_layer.BLOCK if op is OP else latent_moe_layer.BLOCK
    case = problem(op.name, "bf16", mode, **sizes_of(op))
    inputs = inputs_of(op, case)
    references = expected(op, case, inputs)

    def experts(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return EXACT.experts(x, w.roll(1, dims=0), offsets)

    wrong_block = replace(
        block,
        forward=lambda case, operations, tensors: block.forward(
            case, replace(operations, experts=experts), tensors
        ),
    )
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    wrong = rounded(op, case, wrong_block.reference(case, exact))
    assert not compare(tuple(wrong), references, op.tolerance(case)).is_right


def test_what_cannot_be_compiled_says_why() -> None:
    reason = OP.impl("compile").unsupported(odd_problem(OP, "fp32", Mode.TRAINING), DEVICE)
    assert reason is not None
    assert "multiplies bf16 only" in reason


# T = 2, H = 3, qkv of (2 + 2) heads of 4 = 16 rows.
WHOLE = 2 * 3 + 2 * 4 + 16 * 3 + 3 * 8 + 6 * 3
EXPERT = 10 * 3 + 3 * 5
GEMM_FLOPS = 2 * 2 * (16 * 3 + 3 * 8 + 6 * 3) + 2 * 4 * EXPERT
ATTENTION_FLOPS = 2 * (4 + 4) * 2 * 3


def test_cost_of_prefill_by_hand() -> None:
    cost = OP.cost(problem("moe_layer", "bf16", Mode.PREFILL, **TINY))
    # Norms 4 and 5 a value, those of heads 4, rotation 3, the last sum 1.
    others = 6 * (4 + 5 + 1) + (4 + 3) * (16 + 8)
    # The choice of 2 of 6 for 2 tokens, SwiGLU 5 for 4 rows of 5, the weighted sum of 4 rows.
    others += 2 * (6 * 2 + 3 * 2) + 5 * 20 + 2 * 4 * 3
    assert cost.flops == GEMM_FLOPS + ATTENTION_FLOPS + others
    # x, weights of 4 experts, two tables of 2 fp32 angles and 6 routing logits for 2 tokens.
    assert cost.bytes_read == 2 * (6 + WHOLE + 4 * EXPERT) + 4 * (8 + 12)
    assert cost.bytes_written == 2 * (6 + 2 * 2 * 4)


def test_cost_of_training_by_hand() -> None:
    cost = OP.cost(problem("moe_layer", "bf16", Mode.TRAINING, **TINY))
    weights = WHOLE + 6 * EXPERT
    others = 6 * (4 + 11 + 5 + 12 + 1) + (4 + 11 + 2 * 3) * (16 + 8)
    # Backward: 11 of SwiGLU, one sum of two rows for each token, 3 of the weighted sum.
    others += 2 * (6 * 2 + 3 * 2) + 16 * 20 + 6 + 5 * 4 * 3
    assert cost.flops == 3 * (GEMM_FLOPS + ATTENTION_FLOPS) + others + 14 * weights
    # Weights of all experts, which the update reads.
    assert cost.bytes_read == 2 * (6 + 6 + weights) + 4 * (8 + 12) + 12 * weights
    assert cost.bytes_written == 2 * (6 + 6 + weights) + 12 * weights


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=needs_gpu) for mode in OP.modes])
@pytest.mark.parametrize("impl", ["torch", "compile", "triton"])
def test_a_layer_of_qwen3_235b_on_one_of_8_chips_agrees_with_fp64(mode: Mode, impl: str) -> None:
    sizes = {"B": 2, "S": 1024, "H": 4096, "A": 8, "G": 1, "D": 128, "E": 128, "K": 8, "F": 192}
    case = problem("moe_layer", "bf16", mode, **sizes)
    inputs = inputs_of(OP, case)
    references = expected(OP, case, inputs)
    assert_within(OP.impl(impl).prepare(case, inputs)(), references, OP.tolerance(case))
