"""What else differs between the arms: a new driver is not the fault of a commit."""

from collections.abc import Mapping

from harness.environment import Environment
from harness.errors import ConfigError


def environment_changes(base: Environment, head: Environment) -> tuple[str, ...]:
    """What differs and can move a time, a sentence each; the commit is not among it."""
    pairs = {
        "the driver": (base.device.driver, head.device.driver),
        "the runtime": (base.device.runtime, head.device.runtime),
        "Python": (base.python, head.python),
        "the operating system": (base.operating_system, head.operating_system),
        "the host": (base.host, head.host),
        "the number of cores": (str(base.num_cores), str(head.num_cores)),
        **_paired(dict(base.versions), dict(head.versions)),
        **_paired(dict(base.variables), dict(head.variables)),
    }
    return tuple(
        f"{what[0].upper()}{what[1:]} changed from {before or 'unknown'} to {after or 'unknown'}."
        for what, (before, after) in pairs.items()
        if before != after
    )


def _paired(base: Mapping[str, str], head: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {name: (base.get(name, "none"), head.get(name, "none")) for name in {**base, **head}}


def refuse_another_chip(base: Environment, head: Environment, label: str) -> None:
    """A gate is of one chip.

    Raises:
        ConfigError: when the two are of different ones.
    """
    theirs, ours = ((one.device.name, one.device.torch_device_type) for one in (base, head))
    if ours != theirs:
        raise ConfigError(
            f"base: {label} was measured on {base.device.name}, and the device here is "
            f"{head.device.name}. A gate is of one chip; `chipscale compare` compares two."
        )
