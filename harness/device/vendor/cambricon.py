"""Cambricon: power, temperature and processes, through cnmon.

Source: Cambricon CNMON user guide (https://developer.cambricon.com/), `cnmon info`.
"""

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

TOOL = "cnmon"
TEMPERATURES = ("Chip", "Board")
"""The die where it is told, as by version 5; else the board."""


def telemetry(seen: Seen) -> Telemetry:
    """What cnmon shows of the card, where it is told which one that is."""
    card = physical_index(seen.index, "MLU_VISIBLE_DEVICES")
    if card is None:
        return NoTelemetry()

    def read() -> DeviceState | None:
        text = ask((TOOL, "info", "-c", str(card)))
        return None if text is None else parse(text)

    return SlowReader(TOOL, read)


def parse(text: str) -> DeviceState | None:
    """The state in `cnmon info -c N`: a name without a value begins a section."""
    values: dict[tuple[str, str], str] = {}
    pids: dict[int, str] = {}
    section, pid = "", None
    for line in text.splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if not value:
            section = name
        elif name == "PID" and value.isdigit():
            pid = int(value)
            pids[pid] = ""
        elif name == "cmdline" and pid is not None:
            pids[pid] = value.split()[0]
        else:
            values.setdefault((section, name), value)
    temperatures = [celsius(values.get(("Temperature", name))) for name in TEMPERATURES]
    power_w = number(values.get(("Power", "Usage")))
    temperature_c = next((one for one in temperatures if one is not None), None)
    if power_w is None and temperature_c is None:
        return None
    return DeviceState(
        power_w=power_w,
        temperature_c=temperature_c,
        foreign_processes=foreign(pids, pids),
    )


EXTRAS = Extras(telemetry=telemetry)


def open_device(index: int) -> Device:
    """The card of that index."""
    return AcceleratorDevice(index, EXTRAS)
