import pytest

from harness.config.specs import list_names, load_model
from harness.workload.model import CausalCount


@pytest.mark.parametrize("name", list_names("model"))
def test_counted_parameters_are_the_published_ones(name: str) -> None:
    model = load_model(name)
    if model.published_parameters is None:
        pytest.skip("its parameters are published too roughly to be held to")
    assert model.num_parameters == pytest.approx(model.published_parameters, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "active_billion"), [("deepseek_v3", 37.55), ("qwen3_235b_a22b", 22.19)]
)
def test_active_parameters_are_the_published_ones(name: str, active_billion: float) -> None:
    assert load_model(name).num_active_parameters == pytest.approx(active_billion * 1e9, rel=1e-3)


# Counted by hand from the published configurations, per token at 8192 tokens.
@pytest.mark.parametrize(
    ("name", "causal", "full"),
    [
        ("llama3_8b", 5.147e10, 5.791e10),
        ("llama3_70b", 4.492e11, 4.814e11),
        ("llama3_405b", 2.524e12, 2.625e12),
    ],
)
def test_training_flops_per_token_of_llama(name: str, causal: float, full: float) -> None:
    model = load_model(name)
    assert model.model_flops_per_token(8192) == pytest.approx(causal, rel=2e-4)
    assert model.model_flops_per_token(8192, CausalCount.FULL) == pytest.approx(full, rel=2e-4)


def test_gpt3_flops_are_those_of_the_megatron_formula() -> None:
    # Narayanan et al. (SC21) section 5.1 without recomputation: 72 B L s h^2 (1 + s/6h + V/12Lh).
    model, s = load_model("gpt3_175b"), 2048
    layers, h, vocab = model.num_layers, model.hidden, model.vocab
    formula = 72 * layers * s * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert model.model_flops_per_token(s, CausalCount.FULL) * s == pytest.approx(formula)
    assert formula == pytest.approx(2.2046e15, rel=1e-4)


# The cache in bf16 over all layers, as the makers and vLLM state it.
@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("llama3_8b", 131072), ("llama3_405b", 516096), ("qwen3_32b", 262144), ("deepseek_v3", 70272)],
)
def test_cache_bytes_per_token_are_the_published_ones(name: str, num_bytes: int) -> None:
    model = load_model(name)
    assert 2 * model.num_layers * model.kv_elements_per_token == num_bytes
