"""Hygon DCU: power and temperature, through hy-smi; torch drives it as it does ROCm.

Source: hy-smi of DTK, a descendant of rocm-smi with its options and keys (`--showpower --showtemp
--json`); https://developer.sourcefind.cn/ has DTK's manuals.
"""

import json

from harness.device.base import DeviceState
from harness.device.extras import Extras, Seen
from harness.device.telemetry import (
    NoTelemetry,
    SlowReader,
    Telemetry,
    ask,
    celsius,
    number,
    physical_index,
)

TOOL = "hy-smi"
POWER = "Average Graphics Package Power (W)"
TEMPERATURES = ("Temperature (Sensor junction) (C)", "Temperature (Sensor edge) (C)")
"""The hottest place of the die first."""


def telemetry(seen: Seen) -> Telemetry:
    """hy-smi's view of the chip, where it is told which chip that is."""
    card = physical_index(seen.index, "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    if card is None:
        return NoTelemetry()

    def read() -> DeviceState | None:
        text = ask((TOOL, "--showpower", "--showtemp", "--json"))
        return None if text is None else parse(text, card)

    return SlowReader(TOOL, read)


def parse(text: str, card: int) -> DeviceState | None:
    """The state of that card in hy-smi's JSON, or None where it is not there."""
    # Warnings may stand before the braces.
    found = json.loads(text[text.index("{") :])[f"card{card}"]
    temperatures = [celsius(found.get(name)) for name in TEMPERATURES]
    return DeviceState(
        power_w=number(found.get(POWER)),
        temperature_c=next((one for one in temperatures if one is not None), None),
    )


EXTRAS = Extras(telemetry=telemetry)
