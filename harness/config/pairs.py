"""Models and clusters to project side by side, as overrides of one projection each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from harness.config.specs import Group, list_names
from harness.errors import ConfigError, unknown_name

LISTS = {"models": Group.MODEL, "clusters": Group.CLUSTER}
"""The keys that name several, and the group that each is of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOverrides:
    """One projection of several."""

    model: str
    cluster: str
    overrides: tuple[str, ...]
    """Of `chipscale project`, without any runs."""


def is_side_by_side(config: DictConfig) -> bool:
    """Whether several projections were asked for."""
    return any(config[key] for key in LISTS)


def pair_overrides(
    config: DictConfig, overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> tuple[PairOverrides, ...]:
    """Every model on every cluster, clusters of one model together.

    Raises:
        ConfigError: for a name that is not there or is named twice, and where one and several are
            asked for at once.
    """
    kept = [text for text in overrides if _key(text) not in ("runs", *LISTS)]
    models, clusters = (
        _names(key, [str(name) for name in config[key]], kept, config_dirs) for key in LISTS
    )
    pairs = []
    for model in models or (None,):
        for cluster in clusters or (None,):
            chosen = [f"model={model}"] if model else []
            chosen += [f"cluster={cluster}"] if cluster else []
            pairs.append(
                PairOverrides(
                    model=model or str(config["model"]["name"]),
                    cluster=cluster or str(config["cluster"]["name"]),
                    overrides=(*chosen, *kept),
                )
            )
    return tuple(pairs)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _names(
    key: str, names: Sequence[str], overrides: Sequence[str], config_dirs: Sequence[Path]
) -> tuple[str, ...]:
    group = LISTS[key]
    known = list_names(group, config_dirs)
    for place, name in enumerate(names):
        if name not in known:
            raise unknown_name(f"{key}[{place}]", group, name, known)
        if name in names[:place]:
            raise ConfigError(f"{key}[{place}]: {name} is named twice. Name each once.")
    for override in overrides:
        if names and _key(override) == group:
            raise ConfigError(
                f"{key}: {list(names)} was asked for together with {override}. Leave one out: "
                f"{group}= is of one projection, {key}= of several side by side."
            )
    return tuple(names)
