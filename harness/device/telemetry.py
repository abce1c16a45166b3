"""Telemetry: what a device tells of its clocks, power, energy, temperature and occupants.

One file per vendor reads it, behind one small protocol. A sensor that is missing, fails or answers
nonsense gives None and never stops a measurement: a time without its temperature is worth more than
no time.

A device's state is read by the loop between two turns, after the last sample of the one was timed
and before the next begins; nothing here runs in a thread of its own, so no reading ever falls into
a sample. A vendor's library answers in a millisecond and is asked each time. A command-line tool
takes up to seconds, in which the chip would cool down, so `SlowReader` asks it at most every
`READ_EVERY_S` and repeats the latest answer in between, with its age.
"""

import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from harness.device.base import DeviceState

READ_EVERY_S = 10.0
"""`npu-smi info` takes about a second on a host of eight chips: a tenth of the time at most."""
TOOL_TIMEOUT_S = 5.0
"""A tool that hangs, as on a chip that has fallen off its bus, costs this much ..."""
MAX_FAILURES = 3
"""... so many times in a row, and is not asked again."""

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class Telemetry(Protocol):
    """Reads the state of one device."""

    @property
    def source(self) -> str:
        """What it reads with and its version, as `NVML 575.57`; empty where nothing is read."""

    def state(self) -> DeviceState:
        """What can be read now; raises nothing."""


class NoTelemetry:
    """Of a device whose vendor gives us nothing to read it with."""

    source = ""

    def state(self) -> DeviceState:
        """Nothing is known."""
        return DeviceState()


class SlowReader:
    """A reading that takes up to seconds, taken seldom."""

    def __init__(
        self,
        source: str,
        read: Callable[[], DeviceState | None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._read = read
        self._now_s = now_s
        self._latest: DeviceState | None = None
        self._asked_s = -math.inf
        self._failures = 0

    @property
    def source(self) -> str:
        """The tool, until it has failed too often."""
        return self._source if self._failures < MAX_FAILURES else ""

    def state(self) -> DeviceState:
        """The latest answer with its age; a new one when that is older than `READ_EVERY_S`."""
        now_s = self._now_s()
        if now_s - self._asked_s >= READ_EVERY_S and self._failures < MAX_FAILURES:
            self._ask()
            now_s = self._asked_s
        if self._latest is None:
            return DeviceState()
        return replace(self._latest, age_s=now_s - self._asked_s)

    def _ask(self) -> None:
        try:
            found = self._read()
        except Exception:  # Whatever a tool prints must not stop a measurement.
            found = None
        # After the tool has answered, so that the wait is counted from then.
        self._asked_s = self._now_s()
        self._latest = found
        self._failures = 0 if found is not None else self._failures + 1


def ask(command: Sequence[str]) -> str | None:
    """What the tool prints, or None where it is missing, fails or does not answer in time."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def number(value: object, least: float = 0.0, scale: float = 1.0) -> float | None:
    """The number that a text begins with, as in `367.49W`, times `scale`.

    None for `N/A` and other texts without a number, values below `least` and values that are not
    finite.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        found = float(value)
    else:
        match = _NUMBER.match(str(value).strip())
        if match is None:
            return None
        found = float(match.group())
    if not math.isfinite(found) or found < least:
        return None
    return found * scale


LEAST_CELSIUS = -100.0
"""Colder is nonsense: some sensors answer -273 or -32768 for `not there`."""


def celsius(value: object, scale: float = 1.0) -> float | None:
    """A temperature; None where it cannot be one."""
    return number(value, LEAST_CELSIUS / scale, scale)


def physical_index(index: int, *variables: str) -> int | None:
    """Which of the host's chips this process sees as `index`, or None where that is not told.

    Args:
        index: as torch counts.
        variables: environment variables that choose chips, as `ASCEND_RT_VISIBLE_DEVICES=4,5`; the
            first that is set counts.
    """
    for variable in variables:
        text = os.environ.get(variable)
        if text is None:
            continue
        chosen = text.split(",")
        if index < len(chosen) and chosen[index].strip().isdigit():
            return int(chosen[index])
        return None
    return index
