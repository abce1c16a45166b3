"""The hash changes with the work and the rules, and with nothing else."""

import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from harness.measure.policy import Cache, Launch, MeasurePolicy, Values
from harness.measure.protocol import (
    NOT_RULES,
    definition,
    kept_definition,
    protocol_hash,
    protocol_parts,
)
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
    return protocol_hash(parts_of(registry.load(name), PROBLEMS[name], policy, timer))


def parts_of(
    op: Op, case: Problem, policy: MeasurePolicy | None = None, timer: str = "host_clock"
) -> tuple[tuple[str, str], ...]:
    kept_definition.cache_clear()  # Tests change what ops are made of.
    return protocol_parts(op, case, policy or MeasurePolicy(), timer)


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
    case = PROBLEMS[op.name]
    assert protocol_hash(parts_of(changed, case)) != protocol_hash(parts_of(op, case))
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


CHANGES: dict[str, tuple[str, object]] = {
    "seed": ("seed", 1),
    "inputs": ("inputs", Values.ZEROS),
    "cache": ("cache", Cache.HOT),
    "num_input_sets": ("cache", 3),
    "launch": ("launch", Launch.GRAPH),
    "relative_half_width": ("stop rule", 0.5),
    "min_samples": ("stop rule", 3),
    "max_samples": ("stop rule", 11),
    "timeout_s": ("stop rule", 1.0),
    "min_samples_at_timeout": ("stop rule", 1),
    "warmup_window": ("warm-up", 5),
    "warmup_tolerance": ("warm-up", 0.5),
    "warmup_timeout_s": ("warm-up", 1.0),
}
"""For each rule the part of the protocol that names it, and another value."""


@pytest.mark.parametrize("name", list(CHANGES))
def test_another_rule_changes_the_hash_and_the_part_that_names_it_alone(name: str) -> None:
    part, value = CHANGES[name]
    changed = replace(MeasurePolicy(), **{name: value})
    assert hash_of("copy", changed) != hash_of("copy")
    op, case = registry.load("copy"), PROBLEMS["copy"]
    before, after = dict(parts_of(op, case)), dict(parts_of(op, case, changed))
    assert [name for name, text in before.items() if after[name] != text] == [part]


def test_every_setting_is_a_rule_or_changes_no_sample() -> None:
    assert {field.name for field in fields(MeasurePolicy)} == CHANGES.keys() | set(NOT_RULES)


@pytest.mark.parametrize("name", NOT_RULES)
def test_what_changes_no_sample_leaves_the_hash(name: str) -> None:
    assert hash_of("copy", replace(MeasurePolicy(), **{name: 7})) == hash_of("copy")


def test_another_timer_changes_the_hash() -> None:
    assert hash_of("copy", timer="device_event") != hash_of("copy")


def test_the_parts_say_what_was_done() -> None:
    parts = dict(parts_of(registry.load("gemm"), PROBLEMS["gemm"]))
    op, tolerance = parts.pop("op"), parts.pop("tolerance")
    assert re.fullmatch("gemm forward [0-9a-f]{8}", op)
    assert re.fullmatch("0.00781 [0-9a-f]{8}", tolerance)
    assert parts == {
        "sizes": "M=3 N=5 K=7",
        "dtype": "bf16",
        "seed": "0",
        "inputs": "normal",
        "cache": "cold, 2 sets of inputs",
        "launch": "held",
        "warm-up": "two windows of 3 runs within 0.05, or 2 s",
        "stop rule": "half-width 0.01, 20 to 1000 samples, or 10 s with 3",
        "timer": "host_clock",
    }


def test_a_hot_cache_has_one_set_of_inputs_whatever_is_asked_for() -> None:
    hot = MeasurePolicy(cache=Cache.HOT)
    assert hash_of("copy", hot) == hash_of("copy", replace(hot, num_input_sets=5))


def test_inputs_that_stay_are_part_of_the_op() -> None:
    op = registry.load("rope")
    before, after = (
        parts_of(op, PROBLEMS["rope"]),
        parts_of(replace(op, fixed=()), PROBLEMS["rope"]),
    )
    assert dict(before)["op"] != dict(after)["op"]
