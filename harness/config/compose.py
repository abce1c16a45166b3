"""From overrides on a command line to one composed configuration, with errors made for people."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import schema
from harness.config.specs import list_names
from harness.device.plugins import plugin_names
from harness.errors import ConfigError, did_you_mean, unknown_name

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
GROUPS = ("suite", "model", "device", "measure", "cluster", "parallel", "serving")


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Hydra set up for our configuration files, whatever was set up before."""
    GlobalHydra.instance().clear()
    schema.register()
    arguments: dict[str, Any] = {}
    if hydra.__version__.startswith("1.3"):
        arguments["version_base"] = "1.3"  # Later releases warn that they no longer need it.
    with hydra.initialize_config_module("configs", **arguments):
        yield


def compose(
    config_name: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> DictConfig:
    """The configuration of that name with the overrides applied.

    Args:
        config_name: `run` or `project`.
        overrides: as Hydra writes them: `suite=training`, `measure.timeout_s=2`.
        config_dirs: folders whose groups are searched before the packaged ones.

    Raises:
        ConfigError: for anything that is wrong with an override, naming the nearest right one.
    """
    parsed = [_single(override) for override in _parse(overrides)]
    search = _search_path(config_dirs)
    with _hydra():
        _check(config_name, parsed, search, config_dirs)
        try:
            composed: DictConfig = hydra.compose(config_name, [*search, *map(_opened, parsed)])
        except COMPOSE_ERRORS as error:
            raise _culprit(config_name, parsed, search, error) from None
    return composed


def check_sweep(
    config_name: str, overrides: Sequence[str], config_dirs: Sequence[Path] = ()
) -> None:
    """Refuse a sweep whose overrides could not be composed, before Hydra is handed it.

    Raises:
        ConfigError: as `compose` does, for the first value of a sweep that is wrong.
    """
    parser = OverridesParser.create()
    single = [
        parser.parse_override(text)
        for override in _parse(overrides)
        for text in _expanded(override)
    ]
    with _hydra():
        _check(config_name, single, _search_path(config_dirs), config_dirs)


def _expanded(override: Override) -> list[str]:
    """The override once for each value of its sweep; a sweep over numbers is one of a kind."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_choice_sweep():
        return []
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


def _search_path(config_dirs: Sequence[Path]) -> list[str]:
    for folder in config_dirs:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir: {folder} is not a folder.")
    folders = ",".join(f"file://{folder.resolve()}" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if config_dirs else []


def _check(
    config_name: str,
    overrides: Sequence[Override],
    search: Sequence[str],
    config_dirs: Sequence[Path],
) -> None:
    """Refuse names of groups and keys that are not there."""
    _check_groups(overrides, config_dirs)
    # A group named twice, as in a sweep, is composed once: its keys are those of its schema.
    selected = {item.key_or_group: item.input_line for item in overrides if _is_group(item)}
    try:
        base = hydra.compose(config_name, [*search, *selected.values()])
    except COMPOSE_ERRORS as error:
        raise ConfigError(_explained(error)) from None
    _check_keys(config_name, overrides, base)


def _culprit(
    config_name: str, overrides: Sequence[Override], search: Sequence[str], error: Exception
) -> ConfigError:
    """The error that names the one override that cannot be composed, and what is due there."""
    selected = [item.input_line for item in overrides if _is_group(item)]
    base = hydra.compose(config_name, [*search, *selected])
    for override in overrides:
        if _is_group(override):
            continue
        try:
            hydra.compose(config_name, [*search, *selected, _opened(override)])
        except COMPOSE_ERRORS:
            key = override.key_or_group
            given = str(override.input_line).partition("=")[2]
            default = OmegaConf.select(base, key)
            return ConfigError(
                f"{key}: '{given}' is not {_kind(default, key)}. It is {default} by default."
            )
    return ConfigError(_explained(error))


def _kind(default: object, key: str) -> str:
    """What is due at a key, judged by what stands there."""
    if isinstance(default, ListConfig):
        return f"a list, as {key}=[a,b]"
    if isinstance(default, DictConfig):
        return f"a table of keys, as {key}={{a: b}}"
    kinds: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
    return kinds.get(type(default), "a text")


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if text.startswith("-"):
            raise ConfigError(
                f"{text}: options go before overrides and overrides have no dashes. "
                "`chipscale run --help` shows both."
            )
        if "=" not in text and not text.startswith("~"):
            raise ConfigError(
                f"'{text}' is not an override: it needs a key and a value, as suite=training "
                "or measure.timeout_s=2."
            )
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(
                f"'{text}' is not an override ({_explained(error)}). Quote it for the shell and "
                "close its brackets: 'key=[a,b]'."
            ) from None
        if override.is_delete():
            raise ConfigError(f"{text}: nothing can be taken out; set it to null or false instead.")
        if override.key_or_group in GROUPS and isinstance(override.value(), list):
            raise ConfigError(
                f"{text}: one {override.key_or_group} at a time. `chipscale run -m "
                f"{override.key_or_group}=a,b` runs one after the other."
            )
        parsed.append(override)
    return parsed


def _single(override: Override) -> Override:
    if override.is_sweep_override():
        raise ConfigError(
            f"{override.input_line}: several values are a sweep; `chipscale run -m "
            f"{override.input_line}` runs one after the other. A list is written key=[a,b]."
        )
    return override


def _is_group(override: Override) -> bool:
    return override.key_or_group in GROUPS and isinstance(override.value(), str)


def _check_groups(overrides: Sequence[Override], config_dirs: Sequence[Path]) -> None:
    for override in overrides:
        is_group = override.key_or_group in GROUPS and not isinstance(override.value(), dict)
        if is_group:
            # A number, true or null is no name of a file either.
            group = override.key_or_group
            name = str(override.input_line).partition("=")[2]
            names = list_names(group, config_dirs)
            if group == "device":
                names = (*names, *plugin_names())
            if not _is_group(override) or str(override.value()) not in names:
                raise unknown_name(group, group, name, names)


def _check_keys(config_name: str, overrides: Sequence[Override], base: DictConfig) -> None:
    """Refuse a key that is not there, with the nearest that is."""
    known = set(_dotted(OmegaConf.to_container(base, resolve=False)))
    for override in overrides:
        key = override.key_or_group
        is_added = override.is_add() or override.is_force_add()
        if (is_added and key.partition(".")[0] in known) or key.startswith("hydra."):
            continue
        if key in GROUPS or key in known or _is_in_open_table(key):
            continue
        raise ConfigError(
            f"{key}: no such key. {did_you_mean(key, known | set(GROUPS))}"
            f"`chipscale {config_name} --cfg job` shows all of them."
        )


OPEN_TABLES = ("tags", "device.fake.faults")
"""Tables whose keys the user makes up."""


def _is_in_open_table(key: str) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in OPEN_TABLES)


def _opened(override: Override) -> str:
    """The override as Hydra takes it: `++` allows the new keys of an open table."""
    text = str(override.input_line)
    if _is_in_open_table(override.key_or_group) and not text.startswith(("+", "~")):
        return f"++{text}"
    return text


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _dotted(value, f"{prefix}{name}.")


def _explained(error: BaseException) -> str:
    """What went wrong in one line: the innermost cause says it best, another may know the key."""
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(deeper)
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    text = lines[0] if lines else type(chain[-1]).__name__
    keys = [str(found) for link in chain if (found := getattr(link, "full_key", None))]
    return f"{keys[-1]}: {text}" if keys else text
