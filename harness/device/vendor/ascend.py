"""Huawei Ascend: clocks, power, temperature and processes, through npu-smi.

Source: npu-smi reference, `npu-smi info` and `npu-smi info -t common`
(https://www.hiascend.com/document/, "npu-smi Command Reference"). What CANN's compilers know of a
chip is in `data/platform_config/<chip>.ini` of the toolkit, section SoCInfo.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device, DeviceState
from harness.device.extras import Extras, Facts, Seen
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

TOOL = "npu-smi"
_DRIVER = Path("/usr/local/Ascend/driver/version.info")
"""`Version=25.3.rc1`. Source: Ascend driver installation guide, "Query the version"."""
_TOOLKIT = "/usr/local/Ascend/ascend-toolkit/latest"
_ASSIGNED = re.compile(r"^(\w+)=(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One chip in the table of `npu-smi info`."""

    npu: int
    chip: int
    number: int | None
    """As the driver counts chips, where the table has that column."""
    state: DeviceState


def telemetry(seen: Seen) -> Telemetry:
    """npu-smi's view of the chip, where it is told which chip that is."""
    index = physical_index(seen.index, "ASCEND_RT_VISIBLE_DEVICES")
    if index is None:
        return NoTelemetry()
    return SlowReader(TOOL, lambda: _read(index))


def _read(index: int) -> DeviceState | None:
    table = ask((TOOL, "info"))
    if table is None:
        return None
    chip = chip_of(chips(table), index)
    if chip is None:
        return None
    pids = processes(table, chip.npu, chip.chip)
    common = ask((TOOL, "info", "-t", "common", "-i", str(chip.npu))) or ""
    return replace(
        chip.state,
        clock_hz=clock_hz(common, chip.chip),
        foreign_processes=foreign(pids, pids),
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def chips(table: str) -> list[Chip]:
    """The chips of `npu-smi info`.

    Each has two rows. The first begins with the NPU's number and name and has power and
    temperature in its third cell; the second has the chip's number in its first cell, there with
    that of the driver on boards of two chips, and the address on the bus in its second.
    """
    found = []
    above: list[str] | None = None
    for line in table.splitlines():
        cells = _cells(line) if line.lstrip().startswith("|") else []
        if len(cells) != 3 or not cells[0][:1].isdigit():
            # A frame or the heading; the list of processes has four cells.
            above = None if len(cells) > 3 else above
            continue
        if above is None:
            above = cells
            continue
        numbers, values = cells[0].split(), above[2].split()
        found.append(
            Chip(
                npu=int(above[0].split()[0]),
                chip=int(numbers[0]),
                number=int(numbers[1]) if len(numbers) > 1 and numbers[1].isdigit() else None,
                state=DeviceState(
                    power_w=number(values[0]) if values else None,
                    temperature_c=celsius(values[1]) if len(values) > 1 else None,
                ),
            )
        )
        above = None
    return found


def chip_of(found: list[Chip], index: int) -> Chip | None:
    """The chip that the driver counts as `index`: by its number, else by its place in order."""
    if found and all(chip.number is not None for chip in found):
        return next((chip for chip in found if chip.number == index), None)
    ordered = sorted(found, key=lambda chip: (chip.npu, chip.chip))
    return ordered[index] if index < len(ordered) else None


def processes(table: str, npu: int, chip: int) -> dict[int, str]:
    """The processes on that chip, from the second part of `npu-smi info`."""
    found = {}
    for line in table.splitlines():
        cells = _cells(line) if line.lstrip().startswith("|") else []
        if len(cells) == 4 and cells[0].split() == [str(npu), str(chip)] and cells[1].isdigit():
            found[int(cells[1])] = cells[2]
    return found


def clock_hz(common: str, chip: int) -> float | None:
    """The AI cores' current clock in `npu-smi info -t common`, where chips have sections."""
    section = 0
    for line in common.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "Chip ID" and value.isdigit():
            section = int(value)
        elif name == "Aicore curFreq(MHZ)" and section == chip:
            return number(value, scale=1e6)
    return None


def platform(name: str, home: Path) -> dict[str, int]:
    """The whole numbers of CANN's file on that chip, as `l2_size`; empty where it has none."""
    files = sorted(home.glob(f"*/data/platform_config/{name}.ini")) if name.isalnum() else []
    if not files:
        return {}
    text = files[0].read_text(encoding="utf-8", errors="replace")
    return {key: int(value) for key, value in _ASSIGNED.findall(text)}


def facts(seen: Seen) -> Facts:
    """The L2 and the cube cores as CANN or torch-npu tell them, and the driver's version."""
    known = platform(seen.name, Path(os.environ.get("ASCEND_HOME_PATH", _TOOLKIT)))
    driver = ""
    if _DRIVER.exists():
        text = _DRIVER.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^Version=(\S+)", text, re.MULTILINE)
        driver = match.group(1) if match else ""
    return Facts(
        last_level_cache_bytes=known.get("l2_size") or None,
        num_compute_units=known.get("cube_core_cnt") or seen.told("cube_core_num"),
        driver=driver,
    )


EXTRAS = Extras(telemetry=telemetry, facts=facts)


def open_device(index: int) -> Device:
    """The chip of that index."""
    return AcceleratorDevice(index, EXTRAS)
