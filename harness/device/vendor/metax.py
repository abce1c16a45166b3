"""MetaX: power, temperature and processes, through mx-smi; torch calls its chips `cuda`.

Source: the table that mx-smi prints, MetaX mx-smi user guide (https://developer.metax-tech.com/).
"""

import re
from dataclasses import replace

from harness.device.base import DeviceState
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

TOOL = "mx-smi"
NAME = "MetaX"
"""What the names of its chips begin with."""

_CHIP = re.compile(r"^\|\s*(\d+)\s+\S.*?\|\s*[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:")
_READINGS = re.compile(r"^\|\s*(\S+)\s+(\S+)\s*/\s*\S+")
_PROCESS = re.compile(r"^\|\s*(\d+)\s+(\d+)\s+(\S+)\s+\d+\s*\|?\s*$")


def telemetry(seen: Seen) -> Telemetry:
    """mx-smi's view of the chip, where it is told which chip that is."""
    chip = physical_index(seen.index, "CUDA_VISIBLE_DEVICES", "MACA_VISIBLE_DEVICES")
    if chip is None:
        return NoTelemetry()

    def read() -> DeviceState | None:
        text = ask((TOOL,))
        return None if text is None else parse(text, chip)

    return SlowReader(TOOL, read)


def parse(text: str, chip: int) -> DeviceState | None:
    """The state of that chip in mx-smi's table, or None where it is not there.

    A chip has two rows: its number with its address, and `37C 29W / 225W` below.
    """
    lines = text.splitlines()
    state = None
    pids: dict[int, str] = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        row, readings = _CHIP.match(line), _READINGS.match(following)
        if row is not None and readings is not None and int(row.group(1)) == chip:
            state = DeviceState(
                temperature_c=celsius(readings.group(1)), power_w=number(readings.group(2))
            )
        process = _PROCESS.match(line)
        if process is not None and int(process.group(1)) == chip:
            pids[int(process.group(2))] = process.group(3)
    if state is None:
        return None
    return replace(state, foreign_processes=foreign(pids, pids))


EXTRAS = Extras(telemetry=telemetry)
