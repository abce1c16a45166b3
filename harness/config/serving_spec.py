"""Requests to serve: the mapping of a file in `configs/serving/` to a ServingSpec."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config.reader import Reader
from harness.config.specs import COMPUTE_DTYPES, Group, load_data
from harness.errors import ConfigError
from harness.extrapolate.serving.spec import ServingSpec, Speculation
from harness.serving_projection import ServingMode

MOST_GUESSES = 64
"""Of one pass; the chance that as many are right is next to none."""


def _share(reader: Reader, name: str, default: float) -> float:
    """A number from 0 to 1, or the default when absent or null."""
    reader.used.add(name)
    value = reader.data.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int | float) and is_number and 0 <= value <= 1:
        return float(value)
    nearest = 1 if isinstance(value, int | float) and value > 1 else 0
    raise ConfigError(
        f"{reader.key}.{name}: {value!r} is not a number from 0 to 1. "
        f"Set {reader.key}.{name}={nearest}."
    )


def _speculation(reader: Reader | None) -> Speculation:
    if reader is None:
        return Speculation()
    plain = Speculation()
    speculation = Speculation(
        num_tokens=reader.count("num_tokens", least=0, most=MOST_GUESSES, default=0),
        acceptance=_share(reader, "acceptance", plain.acceptance),
        draft_cost=_share(reader, "draft_cost", plain.draft_cost),
    )
    reader.finish()
    return speculation


def serving_spec(data: Mapping[str, object], key: str = "serving") -> ServingSpec:
    """The requests and limits a mapping describes; a degree that is null is searched.

    Raises:
        ConfigError: naming the key, its value, what is allowed and the nearest that works.
    """
    reader = Reader(data, key)
    reader.text("name", "")
    modes = reader.choices("modes", tuple(ServingMode), tuple(ServingMode))
    dtype = reader.choice("dtype", COMPUTE_DTYPES, "bf16")
    types = ("", dtype, "fp8", "int8")
    serving = ServingSpec(
        input_tokens=reader.count("input_tokens"),
        output_tokens=reader.count("output_tokens"),
        ttft_s=reader.number("ttft_ms") * 1e-3,
        tpot_s=reader.number("tpot_ms") * 1e-3,
        cached_input_share=_share(reader, "cached_input_share", 0.0),
        dtype=dtype,
        weight_dtype=reader.choice("weight_dtype", types, ""),
        cache_dtype=reader.choice("cache_dtype", types, ""),
        dispatch_dtype=reader.choice("dispatch_dtype", ("fp8", "int8", dtype), "fp8"),
        modes=tuple(ServingMode(mode) for mode in modes),
        tensor=reader.optional_count("tensor"),
        pipeline=reader.optional_count("pipeline"),
        expert=reader.optional_count("expert"),
        chunk_tokens=reader.optional_count("chunk_tokens"),
        has_graphs=reader.flag("graphs", default=True),
        is_overlapped=reader.flag("overlap", default=True),
        speculation=_speculation(reader.nested("speculation")),
        price_per_chip_hour=reader.optional_number("price_per_chip_hour"),
        source=reader.text("source", ""),
    )
    reader.finish()
    return serving


def load_serving(name: str, extra: Sequence[Path] = ()) -> ServingSpec:
    """The requests of that name. Raises ConfigError for an unknown one."""
    return serving_spec(load_data(Group.SERVING, name, extra), f"serving {name}")
