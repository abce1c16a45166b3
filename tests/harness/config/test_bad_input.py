"""Numbers and names that cannot be: one line with the key, the value and what works instead."""

import copy
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.cli.main import main
from harness.config.build import project_request
from harness.config.compose import compose
from harness.config.specs import chip_spec, load_data
from harness.errors import ChipscaleError
from harness.extrapolate.project import project
from harness.projection import Projection
from kernels import registry

Path = tuple[str | int, ...]
SMALL = (
    *("cluster.num_chips=16", "model.num_layers=4", "parallel.global_batch_tokens=131072"),
    *("parallel.sequence_length=2048", "parallel.tensor=2", "parallel.pipeline=2"),
    *("parallel.microbatch_size=1", "parallel.recompute=none", "parallel.zero_stage=1"),
)
"""A plan that is timed in some milliseconds."""
MODELS = {"llama3_8b": (), "deepseek_v3": ("parallel.expert=8", "model.experts.num_experts=32")}
VALUES = (0, -1, float("nan"), float("inf"), -float("inf"), 1e30, 10**30, 1.5, "x", True, None)
NOT_NUMBERS = ("linear_dtype", "recompute", "layers_per_stage", "schedule")
KEY = re.compile(r"^(model|cluster|parallel|chip|strict|runs)\b[\w.\[\]]*(?: \w+)?: ")
SETTING = r"[a-z][\w.\[\]]*=[^\s,]+?"
WAY_OUT = re.compile(rf"Set ({SETTING}(?: {SETTING})*)(?:[.,](?= |$)| (?:or|to|and) )")


@cache
def composed(model: str) -> dict[str, Any]:
    """What `chipscale project` is asked for, as plain data, and the chip's file beside it."""
    config = compose("project", [f"model={model}", *SMALL, *MODELS[model]])
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    # Memory for nearly any model, since where it is short many plans are searched.
    return {**data, "chip": dict(load_data("chip", "h100_sxm")) | {"memory_gib": 1_000_000}}


def projected(data: dict[str, Any]) -> Projection:
    chip = chip_spec(data["chip"])
    asked = {key: value for key, value in data.items() if key != "chip"}
    request = project_request(OmegaConf.create(asked))
    return project(
        chip=chip,
        model=request.model,
        cluster=request.cluster,
        parallel=request.parallel,
        cost=registry.cost,
        sizes=(),
    )


def leaves(node: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, (*path, index))
    else:
        yield path, node


def is_numeric(path: Path, value: object) -> bool:
    if path[0] not in ("model", "cluster", "parallel", "chip") or path[-1] in NOT_NUMBERS:
        return False
    is_searched = value is None and path[0] == "parallel"
    return is_searched or (isinstance(value, int | float) and not isinstance(value, bool))


def numeric_keys() -> list[tuple[str, Path]]:
    return [
        (model, path)
        for model in MODELS
        for path, value in leaves(composed(model))
        if is_numeric(path, value)
    ]


def put(data: dict[str, Any], path: Path, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    node: Any = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


def path_of(key: str) -> Path:
    return tuple(int(one) if one.isdigit() else one for one in re.findall(r"\w+", key))


def is_named(value: object, text: str) -> bool:
    """The text has the value, as it was written or as the number it is."""
    if repr(value)[:40] in text:
        return True
    numbers = [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]
    return isinstance(value, int | float) and any(one == pytest.approx(value) for one in numbers)


def check_told(data: dict[str, Any], path: Path, value: object) -> None:
    """It works, or one line says what does; and when that is done, it works in a few steps."""
    changed = put(data, path, value)
    is_first = True
    for _ in range(5):
        try:
            point = projected(changed).headline
        except ChipscaleError as error:
            text, exit_code = str(error), error.exit_code
        else:
            assert 0 < point.step_time_s.low <= point.step_time_s.value <= point.step_time_s.high
            assert point.step_time_s.high < float("inf")
            return
        assert "\n" not in text
        assert len(text) < 600, text
        assert KEY.match(text), text
        assert exit_code == 2
        if is_first and value is not None:
            assert is_named(value, text) or text.startswith("parallel: "), text
        if "none would with the" in text or " is n/a, so " in text:
            return  # A model that no cluster holds, a rate that nobody knows: none can be offered.
        found = WAY_OUT.search(text)
        assert found, f"{text} offers no value"
        for setting in found[1].split():
            key, _, offered = setting.partition("=")
            changed = put(changed, path_of(key), yaml.safe_load(offered))
        is_first = False
    raise AssertionError(f"what is offered for {path}={value!r} does not help: {text}")


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(numeric_keys()), value=st.sampled_from(VALUES))
def test_any_number_that_cannot_be_is_answered_with_one_that_works(
    key: tuple[str, Path], value: object
) -> None:
    model, path = key
    check_told(composed(model), path, value)


@settings(max_examples=30, deadline=None)
@given(
    key=st.sampled_from(numeric_keys()),
    value=st.one_of(
        st.integers(-(10**15), 10**15), st.floats(), st.integers(1, 10**6), st.text(max_size=5)
    ),
)
def test_numbers_of_any_size_are_answered(key: tuple[str, Path], value: object) -> None:
    model, path = key
    check_told(composed(model), path, value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "cluster.num_chips=0",
            "cluster.num_chips: 0 is not a whole number of at least 1. Set",
        ),
        (
            "cluster.num_chips=100000.0",
            "100000.0 is not a whole number of at least 1. Set",
        ),
        ("cluster.num_chips=-8", "Set cluster.num_chips=1."),
        ("cluster.num_chips=1000000", "Set cluster.num_chips=122880"),
        ("cluster.num_chips=true", "cluster.num_chips: True is not a whole number"),
        ("cluster.num_chips=null", "cluster.num_chips: missing; it must be a whole number of at"),
        ("cluster.chip=h10_sxm", "cluster.chip: no chip named 'h10_sxm'. Did you mean 'h100_sxm'?"),
        ("cluster.reliability.restart_minutes=nan", "nan is not a finite number greater than 0"),
        ("cluster.reliability.restart_minutes=-5", "Set cluster.reliability.restart_minutes=5."),
        ("model.num_layers=1e30", "at least 1 and at most 1000. Set model.num_layers=1000."),
        ("model.num_layers=31.6", "Set model.num_layers=32."),
        ("model.num_heads=nan", "model.num_heads: nan is not a whole number of at least 1."),
        ("model=llama4", "no model named 'llama4'. Did you mean 'llama3_"),
        ("model=8", "model: no model named '8'. `chipscale list models` shows all."),
        ("cluster=null", "cluster: no cluster named 'null'. `chipscale list clusters` shows all."),
        ("parallel=true", "parallel: no parallel named 'true'. `chipscale list parallels` shows"),
        ("cluster=h100", "no cluster named 'h100'. Did you mean 'h100_16k'?"),
        ("parallel.dtype=bf61", "one of bf16, fp16, fp32. Did you mean 'bf16'?"),
        ("parallel.dtype=null", "parallel.dtype: missing; it must be one of bf16, fp16, fp32."),
        (
            "parallel.linear_dtype=fp6",
            "one of fp8, int8, fp4. Did you mean 'fp8'? Set par",
        ),
        ("parallel.recompute=some", "one of none, selective, full."),
        ("parallel.zero_stage=4", "at least 0 and at most 3. Set parallel.zero_stage=3."),
        ("parallel.tensor=inf", "parallel.tensor: inf is not a whole number of at least 1"),
        (
            "parallel.tensor=7",
            "7 does not divide the 128 query heads of llama3_405b. Set par",
        ),
        ("parallel.tenser=8", "parallel.tenser: no such key. Did you mean 'parallel.tensor'?"),
        ("parallel.global_batch_tokens=8000", "or parallel.sequence_length=8000 or less."),
        (
            "parallel.data=100000",
            "parallel.data: 100000 is too large, as 100000 replicas of",
        ),
        (
            "parallel.data=100000",
            "Set parallel.data=8192 or less, or parallel.global_batch_tok",
        ),
        ("parallel.microbatch_size=8193", "Set parallel.microbatch_size=8192 or less"),
        ("strict=maybe", "strict: 'maybe' is not true or false."),
        ("tracking.timeout_s=soon", "tracking.timeout_s: 'soon' is not a number."),
        (
            "tracking.timeout_s=-1",
            "tracking.timeout_s: -1.0 is not a finite number greater than 0",
        ),
        (
            "tracking.timeout_s=nan",
            "tracking.timeout_s: nan is not a finite number greater than 0",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["project", override]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("chipscale: ")
    assert shown.err.count("\n") == 1
    assert words in shown.err


def small(**changes: object) -> dict[str, Any]:
    data = composed("llama3_8b")
    for key, value in changes.items():
        data = put(data, path_of(key.replace("__", ".")), value)
    return data


MEMORY = {"chip__memory_gib": 80}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ChipscaleError) as caught:
        projected(data)
    return str(caught.value)


def test_chips_that_no_plan_can_use_stay_idle_and_are_told() -> None:
    point = projected(
        small(cluster__num_chips=97, parallel__global_batch_tokens=24 * 8 * 2048)
    ).headline
    assert (point.num_chips, point.num_chips_used) == (97, 96)


def test_a_plan_that_no_chips_are_enough_for_is_refused_with_how_many_are() -> None:
    assert "one replica needs 4, but cluster.num_chips is 3. Set cluster.num_chips=4" in refusal(
        small(cluster__num_chips=3)
    )


def test_a_model_larger_than_the_cluster_is_told_the_least_number_of_chips_that_holds_it() -> None:
    searched = {f"parallel__{name}": None for name in ("tensor", "pipeline", "microbatch_size")}
    searched |= {"parallel__recompute": None, "parallel__zero_stage": None}
    large = small(
        model__num_layers=64, model__hidden=8192, cluster__num_chips=2, **MEMORY, **searched
    )
    text = refusal(large)
    found = re.search(r"needs (\d+) chips at least. Set cluster.num_chips=(\d+)\.$", text)
    assert found, text
    assert found[1] == found[2]
    least = int(found[1])
    assert projected(put(large, ("cluster", "num_chips"), least)).headline.num_chips_used == least
    assert "No plan fits" in refusal(put(large, ("cluster", "num_chips"), least - 1))


def test_a_model_that_no_cluster_holds_is_told_so() -> None:
    assert "none would with the 122880 chips" in refusal(small(model__hidden=10**7, **MEMORY))


def test_a_plan_that_does_not_fit_names_the_overrides_of_one_that_does() -> None:
    data = small(model__num_layers=128, model__hidden=8192, cluster__num_chips=64, **MEMORY)
    text = refusal(data)
    assert "GiB per chip, but a chip has 80.0 GiB" in text
    assert "fits" in text
    check_told(data, ("parallel", "pipeline"), 1)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("peak_tflops", "chip.peak_tflops.bf16: that of h100_sxm is n/a, so gemm.bf16"),
        ("memory_bandwidth_gb_per_s", "memory_bandwidth_gb_per_s"),
        ("memory_gib", "chip.memory_gib: that of h100_sxm is n/a, so no plan can be checked."),
    ],
)
def test_a_missing_rate_is_named_with_the_file_or_the_run_it_may_come_from(
    key: str, words: str
) -> None:
    data = put(small(), ("chip", "achievable_tflops"), None)
    text = refusal(put(data, ("chip", key), None))
    assert words in text
    assert "`chipscale run`" in text


@pytest.mark.parametrize("value", [0, 0.0, -450, float("nan"), float("inf")])
def test_a_bandwidth_of_nothing_or_less_is_refused(value: float) -> None:
    data = put(small(), ("cluster", "tiers", 0, "gb_per_s_per_chip"), value)
    text = refusal(data)
    assert text.startswith(f"cluster.tiers[0].gb_per_s_per_chip: {value!r} is not a finite number")
    check_told(small(), ("cluster", "tiers", 0, "gb_per_s_per_chip"), value)


@pytest.mark.parametrize("path", ["model", "cluster.reliability", "cluster.tiers[1]", "parallel"])
@pytest.mark.parametrize("value", [5, "x", None, [], [3]])
def test_a_table_that_is_something_else_is_refused_in_one_line(path: str, value: object) -> None:
    text = refusal(put(small(), path_of(path), value))
    assert "\n" not in text
    assert path.partition("[")[0] in text
