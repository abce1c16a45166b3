"""Requests that cannot be served: one line with the key, the value and what works instead."""

import re
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.config.build import project_request, serve_request
from harness.config.compose import compose
from harness.config.specs import load_chip
from harness.errors import ChipscaleError, ConfigError
from harness.extrapolate.serving.serve import serve
from harness.serving_projection import ServingProjection
from kernels import registry

VALUES = (0, -1, float("nan"), float("inf"), -float("inf"), 1e30, 10**30, 1e-9, 1.5, "x", True, 3)
KEYS = (
    *("input_tokens", "output_tokens", "ttft_ms", "tpot_ms", "cached_input_share", "tensor"),
    *("pipeline", "expert", "chunk_tokens", "price_per_chip_hour", "speculation.num_tokens"),
    *("speculation.acceptance", "speculation.draft_cost", "modes", "weight_dtype", "cache_dtype"),
)
KEY = re.compile(r"^(model|cluster|serving)\.[\w.\[\]]+: ")
WAY_OUT = re.compile(r"Set ([a-z][\w.]*)=([^\s,]+?)(?:[.,](?= |$)| (?:or|to|and) )")


def test_a_cluster_of_several_chips_is_answered_with_one_of_a_single_chip() -> None:
    config = compose("serve", ["model=llama3_8b", "cluster=mixed_100k"])
    with pytest.raises(ConfigError, match=r"cluster: mixed_100k has islands .* cluster=h100_100k"):
        serve_request(config)


def test_a_mixed_cluster_can_train_what_it_cannot_serve() -> None:
    request = project_request(compose("project", ["model=llama3_8b", "cluster=mixed_100k"]))
    assert [chip.name for chip in request.island_chips] == ["h100_sxm", "ascend_910c", "mi300x"]
    assert request.chip is None


@cache
def composed() -> dict[str, Any]:
    config = compose("serve", ["model=llama3_8b", "cluster.num_chips=16"])
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    return data


def put(data: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    group, *path = key.split(".")
    changed = {**data, group: {**data[group]}}
    node = changed[group]
    for name in path[:-1]:
        node[name] = {**node[name]}
        node = node[name]
    node[path[-1]] = value
    return changed


def served(data: dict[str, Any]) -> ServingProjection:
    request = serve_request(OmegaConf.create(data))
    return serve(
        chip=load_chip("h100_sxm"),
        model=request.model,
        cluster=request.cluster,
        spec=request.serving,
        cost=registry.cost,
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KEYS), st.sampled_from(VALUES))
def test_any_value_that_cannot_be_is_answered_with_one_that_works(key: str, value: object) -> None:
    changed = put(composed(), f"serving.{key}", value)
    for _ in range(5):
        try:
            best = served(changed).best
        except ChipscaleError as error:
            text = str(error)
        else:
            assert 0 < best.tokens_per_s.low <= best.tokens_per_s.value < float("inf")
            return
        assert "\n" not in text
        assert len(text) < 600
        assert KEY.match(text), text
        if "Write " in text:
            return  # A list, which is shown as it is written.
        found = WAY_OUT.search(text)
        assert found, f"{text} offers no value"
        changed = put(changed, found[1], yaml.safe_load(found[2]))
    pytest.fail(f"what is offered for {key}={value!r} does not help: {text}")
