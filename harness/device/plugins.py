"""Back-ends of other packages, found by the entry-point group `chipscale.devices`.

An entry point names a factory that is given an index and returns a `Device`. It may have the name
of a back-end of ours, as `npu`: a vendor's own package knows its chips better, and the record says
who opened the device. Listing them imports nothing.
"""

import contextlib
import importlib.metadata
from dataclasses import dataclass, replace

from harness.device.base import Device
from harness.errors import ChipscaleError, ConfigError

GROUP = "chipscale.devices"
RESERVED = ("auto", "cpu", "fake")
"""Names that mean the same everywhere."""
OWN_PREFIX = "harness."
"""Where our own entry points lead, which are built in and work without being installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """An entry point of another package."""

    name: str
    """As in `device=<name>`."""
    package: str
    """`acme-chips 1.2`."""
    target: str
    """`acme_chips.device:open_device`."""

    @property
    def is_reserved(self) -> bool:
        """Its name is one that no package may take, so it is never opened."""
        return self.name in RESERVED


def plugins() -> tuple[Plugin, ...]:
    """Those of all packages that are installed here, by name; a name twice is there twice."""
    found = {
        Plugin(
            name=point.name,
            package=f"{point.dist.name} {point.dist.version}" if point.dist else "a package",
            target=point.value,
        )
        for point in importlib.metadata.entry_points(group=GROUP)
        if not point.value.startswith(OWN_PREFIX)
    }
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.package)))


def plugin_names() -> tuple[str, ...]:
    """The names that other packages add to `device=`."""
    return tuple(sorted({one.name for one in plugins() if not one.is_reserved}))


def find(name: str) -> Plugin | None:
    """The package's back-end of that name, or None.

    Raises:
        ConfigError: when two packages have one of that name.
    """
    found = [one for one in plugins() if one.name == name and not one.is_reserved]
    if len(found) > 1:
        packages = " and ".join(one.package for one in found)
        raise ConfigError(
            f"device.name: '{name}' is a back-end of {packages}, and only one can be meant. "
            "Uninstall the others."
        )
    return found[0] if found else None


def open_plugin(plugin: Plugin, index: int) -> Device:
    """The device that the package's factory makes.

    Raises:
        ConfigError: naming package and entry point, when it cannot be imported, fails, or returns
            something that is no device.
    """
    whose = f"device.name: '{plugin.name}' is {plugin.target} of {plugin.package}"
    point = importlib.metadata.EntryPoint(name=plugin.name, value=plugin.target, group=GROUP)
    try:
        device = point.load()(index)
    except ChipscaleError:
        raise
    except Exception as error:  # Another's code may raise anything.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"{whose}, which failed: {type(error).__name__}: "
            f"{lines[0] if lines else 'no message'}. "
            "Update or uninstall the package, or ask its makers."
        ) from error
    missing = [name for name in _members(Device) if not hasattr(device, name)]
    if missing:
        raise ConfigError(
            f"{whose}, and what it returns is no device: it has no {', '.join(missing)}. "
            "docs/adding.md shows all that a device has."
        )
    opened: Device = device
    with contextlib.suppress(AttributeError):  # Its `info` may be a property, and say so itself.
        opened.info = replace(opened.info, backend=opened.info.backend or plugin.package)
    return opened


def _members(protocol: type) -> list[str]:
    """What an object that keeps the protocol has: its fields and methods."""
    return [
        name for name in (*protocol.__annotations__, *vars(protocol)) if not name.startswith("_")
    ]
