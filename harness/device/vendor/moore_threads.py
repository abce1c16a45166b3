"""Moore Threads: clocks, power, temperature and processes, through mthreads-gmi.

Source: Moore Threads documentation centre (https://docs.mthreads.com/), mthreads-gmi; keys as
`mthreads-gmi -q --json` of versions 1.14 to 2.4 prints them.
"""

import json
import re
from dataclasses import replace
from typing import Any

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device, DeviceState
from harness.device.extras import Extras, Seen
from harness.device.processes import foreign
from harness.device.telemetry import (
    NoTelemetry,
    SlowReader,
    Telemetry,
    ask,
    celsius,
    number,
    physical_index,
)

TOOL = "mthreads-gmi"
_PROCESS = re.compile(r"^\s*(\d+)\s+(\d+)\s+(\S+).*\d+\s*[KMG]?i?B\s*$")


def telemetry(seen: Seen) -> Telemetry:
    """mthreads-gmi's view of the chip, where it is told which chip that is."""
    chip = physical_index(seen.index, "MUSA_VISIBLE_DEVICES", "MTHREADS_VISIBLE_DEVICES")
    if chip is None:
        return NoTelemetry()

    def read() -> DeviceState | None:
        text = ask((TOOL, "-q", "--json"))
        state = None if text is None else parse(text, chip)
        if state is None:
            return None
        pids = processes(ask((TOOL,)) or "", chip)
        return replace(state, foreign_processes=foreign(pids, pids))

    return SlowReader(TOOL, read)


def parse(text: str, chip: int) -> DeviceState | None:
    """The state of that chip in the JSON, or None where it is not there."""
    for found in json.loads(text).get("GPU", []):
        if str(found.get("Index")) != str(chip):
            continue
        return DeviceState(
            clock_hz=number(_value(found, "Clocks", "Graphics"), scale=1e6),
            memory_clock_hz=number(_value(found, "Clocks", "Memory"), scale=1e6),
            power_w=number(_value(found, "Power Readings", "Power Draw")),
            temperature_c=celsius(_value(found, "Temperature", "GPU Current Temp")),
        )
    return None


def _value(found: Any, section: str, name: str) -> object:
    """A value of a section; some versions end a key in a blank."""
    values = found.get(section)
    if not isinstance(values, dict):
        return None
    return next((value for key, value in values.items() if key.strip() == name), None)


def processes(table: str, chip: int) -> dict[int, str]:
    """The processes on that chip, below `Processes:` in the table without options."""
    found = {}
    for line in table.partition("Processes:")[2].splitlines():
        match = _PROCESS.match(line)
        if match is not None and int(match.group(1)) == chip:
            found[int(match.group(2))] = match.group(3)
    return found


EXTRAS = Extras(telemetry=telemetry)


def open_device(index: int) -> Device:
    """The chip of that index."""
    return AcceleratorDevice(index, EXTRAS)
