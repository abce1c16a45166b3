import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import list_names, load_model
from harness.extrapolate.memory import (
    activation_bytes_per_token,
    layer_counts,
    memory_use,
    stage_parameters,
)
from harness.projection import PlanChoice
from harness.units import GIBI
from harness.workload.step import LayerKind, Shard


def plan(**degrees: int | str) -> PlanChoice:
    whole: dict[str, int | str] = {"tensor": 1, "pipeline": 1, "data": 1}
    return PlanChoice(**(whole | degrees))  # type: ignore[arg-type]


def test_a_175b_layer_keeps_34_bytes_per_hidden_unit_but_for_the_masks() -> None:
    # Korthikanti et al. count 34 s b h with two dropout masks of a byte and the inputs of the
    # dropouts; without dropout 8 + 4 + 4 + 2 x 8 = 32, and the log-sum-exp of each head.
    model = load_model("gpt3_175b")
    found = activation_bytes_per_token(model, LayerKind.DENSE, 2)
    assert found == 32 * model.hidden + 4 * model.num_heads


def test_llama_405b_fits_an_h100_as_llama_3_trained_it() -> None:
    # Llama 3 (arXiv 2407.21783) section 3.3.2: 8K tokens without recomputation on 80 GB.
    used = memory_use(
        load_model("llama3_405b"),
        plan(tensor=8, pipeline=16, data=128, num_microbatches=16, zero_stage=2),
        8192,
        "bf16",
    )
    assert used.total_bytes < 80 * GIBI


def test_the_parts_are_the_whole() -> None:
    used = memory_use(load_model("llama3_8b"), plan(data=8), 8192, "bf16")
    assert used.total_bytes == pytest.approx(sum(part for _, part in used.parts))
    assert dict(used.parts)["weights"] == 2 * load_model("llama3_8b").num_parameters


@given(st.sampled_from(list_names("model")), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_a_larger_tensor_group_needs_less_memory(name: str, tensor: int, zero: int) -> None:
    model = load_model(name)
    smaller = plan(tensor=tensor, data=16, zero_stage=zero)
    larger = plan(tensor=2 * tensor, data=16, zero_stage=zero)
    bytes_smaller = memory_use(model, smaller, 4096, "bf16").total_bytes
    assert memory_use(model, larger, 4096, "bf16").total_bytes < bytes_smaller


@given(st.sampled_from(list_names("model")), st.integers(0, 2), st.sampled_from([8, 64]))
def test_a_higher_zero_stage_needs_less_memory(name: str, zero: int, data: int) -> None:
    model = load_model(name)
    less = memory_use(model, plan(data=data, zero_stage=zero + 1), 4096, "bf16").total_bytes
    more = memory_use(model, plan(data=data, zero_stage=zero), 4096, "bf16").total_bytes
    assert less < more


def test_recomputation_keeps_less() -> None:
    model = load_model("llama3_70b")
    kept = memory_use(model, plan(tensor=8, data=8), 8192, "bf16").total_bytes
    again = memory_use(model, plan(tensor=8, data=8, recompute="full"), 8192, "bf16").total_bytes
    assert again < kept


@pytest.mark.parametrize("name", list_names("model"))
@pytest.mark.parametrize("pipeline", [1, 2, 4])
def test_stages_hold_every_parameter_once(name: str, pipeline: int) -> None:
    model = load_model(name)
    first, inner, last = stage_parameters(model, Shard(), pipeline)
    counts = [sum(pair) for pair in layer_counts(model, pipeline)]
    if pipeline == 1:
        held = first.shared + first.experts
    else:
        held = sum(stage.shared + stage.experts for stage in (first, last))
        held += (pipeline - 2) * (inner.shared + inner.experts)
        assert counts[0] + counts[2] + (pipeline - 2) * counts[1] == pytest.approx(
            model.num_layers, abs=pipeline
        )
        # A tied table is on the first and on the last stage.
        held -= model.vocab * model.hidden if model.is_embedding_tied else 0
    # Uneven stages are all taken as full, so a few layers may be counted twice.
    assert model.num_parameters * (1 - 1e-5) <= held <= model.num_parameters * 1.05
