"""What a user can get wrong, as exceptions whose text is one paragraph that says what to do.

ChipscaleError (a ValueError; the command line prints it and exits with its code)
|-- ConfigError         a key, a value or a name that the configuration does not allow: exit 2
|-- PlanError           a parallel plan that does not fit the cluster or the memory: exit 2
|-- RecordError         a record or run folder that cannot be read or is in use: exit 2
|   |-- NewerRecordError    written by a newer chipscale
|   `-- UnknownKeyError     a key that the type does not have
|-- NothingMeasured     no case of a run could be measured: exit 5
|-- DeviceBusyError     another run measures on the device, or holds it still: exit 6
`-- StorageError        the disk is full or takes no more: exit 7
"""

import difflib
from collections.abc import Iterable

TRACKING_REQUIRED_EXIT_CODE = 1
"""MLflow was required and is absent; what was measured is kept."""

REGRESSION_EXIT_CODE = 3
"""A gate found a regression that nobody accepted, and is no mere advice."""

CASE_FAILED_EXIT_CODE = 4
"""A case crashed, hung, ran out of memory or was wrong; its record says which."""

INTERRUPTED_EXIT_CODE = 130
"""As shells report a program ended by Ctrl-C."""


class ChipscaleError(ValueError):
    """The root of all errors a user can cause."""

    exit_code = 2


class ConfigError(ChipscaleError):
    """A key, a value or a name that the configuration does not allow."""


class PlanError(ChipscaleError):
    """A parallel plan that does not fit the cluster or the memory of its chips."""


class RecordError(ChipscaleError):
    """A record or a run folder that cannot be read."""


class NewerRecordError(RecordError):
    """A record that a newer chipscale wrote; it is whole, and not ours to change."""


class UnknownKeyError(RecordError):
    """A key that the type does not have: from a newer chipscale, or damaged."""


class NothingMeasured(ChipscaleError):  # noqa: N818 - it is a state, told as one
    """No case of a run could be measured, so there is nothing to show or compare."""

    exit_code = 5


class DeviceBusyError(ChipscaleError):
    """The device cannot be had for measuring alone; later it may be."""

    exit_code = 6


class StorageError(ChipscaleError):
    """The disk does not take what has to be written; what is there is whole."""

    exit_code = 7


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`Did you mean 'swiglu'? ` for a near match, else an empty string."""
    near = difflib.get_close_matches(name, sorted(allowed), n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'? " if near else ""


def unknown_name(key: str, kind: str, name: str, allowed: Iterable[str]) -> ConfigError:
    """The error for a name that is not there, with the nearest one and the command listing all.

    Example: `suite.ops[2]: no op named 'swiglo'. Did you mean 'swiglu'? ...`
    """
    return ConfigError(
        f"{key}: no {kind} named '{name}'. {did_you_mean(name, allowed)}"
        f"`chipscale list {kind}s` shows all."
    )
