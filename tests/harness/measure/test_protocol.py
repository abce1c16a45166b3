"""The hash changes with the work and the rules, and with nothing else."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from harness.measure.policy import Cache, MeasurePolicy
from harness.measure.protocol import definition, protocol_hash
from kernels import adamw, compiled, cross_entropy, gemm, registry, rms_norm, swiglu
from kernels.op import Inputs, Mode, Op, Outputs, Problem, problem

PROBLEMS = {
    "adamw": problem("adamw", "bf16", N=7),
    "attention": problem(
        "attention", "bf16", Mode.FORWARD, "causal", B=1, Q=4, S=4, H=2, G=1, D=8, E=8
    ),
    "copy": problem("copy", "bf16", N=7),
    "cross_entropy": problem("cross_entropy", "bf16", T=3, V=7),
    "embedding": problem("embedding", "bf16", T=3, V=5, H=7),
    "gemm": problem("gemm", "bf16", M=3, N=5, K=7),
    "rms_norm": problem("rms_norm", "bf16", T=3, H=7),
    "rope": problem("rope", "bf16", T=3, H=2, D=8),
    "swiglu": problem("swiglu", "bf16", T=3, F=7),
}


def hash_of(name: str, policy: MeasurePolicy | None = None, timer: str = "host_clock") -> str:
    return protocol_hash(registry.load(name), PROBLEMS[name], policy or MeasurePolicy(), timer)


def another_formula(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return x.sum(dim=-1)


@pytest.mark.parametrize("name", registry.names())
def test_every_definition_is_found_and_stays(name: str) -> None:
    found = definition(registry.load(name))
    assert any("def make_inputs" in text for text in found)
    assert any("def reference" in text for text in found)
    assert any("def cost" in text for text in found)
    assert definition(registry.load(name)) == found


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (rms_norm, "EPS", 1e-6),
        (adamw, "BETA_1", 0.8),
        (adamw, "_STEP_SIZE", 1.0),
        (cross_entropy, "_LOGIT_SCALE", 1.0),
        (gemm, "_OPERANDS", {}),
        (compiled, "prepare_eager", another_formula),
    ],
)
def test_a_constant_or_function_of_the_definition_changes_the_hash(
    module: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("rms_norm", "adamw", "cross_entropy", "gemm")
    before = [hash_of(op) for op in names]
    monkeypatch.setattr(module, name, value)
    assert [hash_of(op) for op in names] != before


@pytest.mark.parametrize("module", [rms_norm, swiglu, cross_entropy])
def test_a_formula_behind_a_wrapper_changes_the_hash(module: object) -> None:
    op: Op = module.OP  # type: ignore[attr-defined]
    changed = replace(op, reference=compiled.reference_from(another_formula, ("x",), "dy"))
    policy = MeasurePolicy()
    case = PROBLEMS[op.name]
    assert protocol_hash(changed, case, policy, "t") != protocol_hash(op, case, policy, "t")
    # The formula itself, and not only the names of its operands.
    source = "".join(definition(op))
    assert "def _formula" in source
    assert "def _eager" not in source


@pytest.mark.parametrize(
    "name",
    [
        *("attention", "gelu", "gemm", "layer_norm", "moe_permute", "moe_route", "moe_unpermute"),
        *("rms_norm", "rope", "swiglu"),
    ],
)
def test_another_formula_of_a_part_changes_the_hash_of_a_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = registry.load("latent_moe_layer")
    before = definition(layer)
    changed = compiled.reference_from(another_formula, ("x",), "dy")
    monkeypatch.setattr(sys.modules[f"kernels.{name}"], "reference", changed)
    assert definition(layer) != before


def test_functions_of_one_name_are_told_apart() -> None:
    def reference_of(*formulas: Callable[..., torch.Tensor]) -> Op:
        parts = tuple(compiled.reference_from(formula, ("x",), "dy") for formula in formulas)
        op = registry.load("copy")

        def reference(problem: Problem, inputs: Inputs) -> Outputs:
            return tuple(part(problem, inputs)[0] for part in parts)

        return replace(op, reference=reference)

    first, second = swiglu._formula, rms_norm._formula
    assert definition(reference_of(first, second)) != definition(reference_of(first, first))
    assert definition(reference_of(first, second)) == definition(reference_of(first, second))


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("rms_norm", ("_forward_kernel", "_eager", "_prepare_triton", "_check")),
        ("gemm", ("gemm", "TUNABLES", "_CUSTOM", "_precision", "_prepare_triton")),
        ("adamw", ("_adamw_kernel", "eager", "_BLOCK")),
        ("attention", ("attention", "_eager_causal")),
    ],
)
def test_another_kernel_is_the_same_work(
    name: str, attributes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_of(name)
    module = sys.modules[f"kernels.{name}"]
    for attribute in attributes:
        monkeypatch.setattr(module, attribute, another_formula)
    assert hash_of(name) == before


@pytest.mark.parametrize(
    "change",
    [
        {"cache": Cache.HOT},
        {"seed": 1},
        {"relative_half_width": 0.5},
        {"min_samples": 3},
        {"max_samples": 11},
        {"timeout_s": 1.0},
        {"min_samples_at_timeout": 1},
        {"warmup_timeout_s": 1.0},
    ],
)
def test_another_rule_changes_the_hash(change: dict[str, object]) -> None:
    policy: Callable[..., MeasurePolicy] = MeasurePolicy
    assert hash_of("copy", policy(**change)) != hash_of("copy")


def test_another_timer_changes_the_hash_and_the_time_limit_of_a_case_does_not() -> None:
    assert hash_of("copy", timer="device_event") != hash_of("copy")
    assert hash_of("copy", MeasurePolicy(case_timeout_s=1.0)) == hash_of("copy")
