"""Intel Gaudi: power and temperature, through hl-smi, and the memory on its die.

Source: Intel Gaudi documentation, System Management Interface Tool (hl-smi), option -Q
(https://docs.habana.ai/en/latest/Management_and_Monitoring/).
"""

import os

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device, DeviceState
from harness.device.extras import Extras, Facts, Seen
from harness.device.telemetry import SlowReader, Telemetry, ask, celsius, number, physical_index

TOOL = "hl-smi"
QUERY = ("-Q", "module_id,power.draw,temperature.aip", "-f", "csv,noheader")
MODULES = "HABANA_VISIBLE_MODULES"

SRAM_BYTES = {"GAUDI2": 48 * 2**20, "GAUDI3": 96 * 2**20}
"""Between the engines and the HBM; its bridge to torch tells no cache.

Source: Intel Gaudi 2 and Intel Gaudi 3 AI accelerator white papers, "on-die SRAM".
"""


def telemetry(seen: Seen) -> Telemetry:
    """What hl-smi shows of the card, where it is certain which card that is."""

    def read() -> DeviceState | None:
        text = ask((TOOL, *QUERY))
        # Without this variable a process is given whichever card is free.
        module = physical_index(seen.index, MODULES) if MODULES in os.environ else None
        return None if text is None else parse(text, module)

    return SlowReader(TOOL, read)


def parse(text: str, module: int | None) -> DeviceState | None:
    """The state of that module, or of the only one; None where neither is there."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    found = [row for row in rows if module is None or row[0] == str(module)]
    if len(found) != 1 or len(found[0]) != 3:
        return None
    return DeviceState(power_w=number(found[0][1]), temperature_c=celsius(found[0][2]))


def facts(seen: Seen) -> Facts:
    """The memory on the die by the chip's name."""
    return Facts(last_level_cache_bytes=SRAM_BYTES.get(seen.name.upper()))


EXTRAS = Extras(telemetry=telemetry, facts=facts)


def open_device(index: int) -> Device:
    """The card of that index."""
    return AcceleratorDevice(index, EXTRAS)
