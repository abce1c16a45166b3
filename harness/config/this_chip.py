"""The chip that was measured: its data sheet where one names it, else what it says of itself."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.config.specs import match_chip
from harness.device.chip import ChipSpec
from harness.environment import Environment


def this_chip(environment: Environment, folders: Sequence[Path] = ()) -> ChipSpec:
    """The data sheet of the measured device, or one in which all but its memory is unknown."""
    info = environment.device
    known = match_chip(info.name, folders)
    if known is not None:
        return known
    memory_bytes = None if info.memory_bytes is None else float(info.memory_bytes)
    return ChipSpec(
        name=re.sub(r"[^a-z0-9]+", "_", info.name.lower()).strip("_"),
        title=info.name,
        vendor="unknown",
        torch_device_type=info.torch_device_type,
        match=(info.name,),
        peak_flops_per_s=(),
        achievable_flops_per_s=(),
        memory_bytes=memory_bytes,
        memory_bandwidth_bytes_per_s=None,
        l2_bytes=None,
        scaleup_bandwidth_bytes_per_s_per_chip=None,
        scaleup_domain_chips=None,
        scaleout_bandwidth_bytes_per_s_per_chip=None,
        power_w=None,
        source=f"as {info.name} reports itself on host {environment.host}",
        evidence="read from the device",
        notes="No data sheet in configs/chip/ names it in `match`.",
    )


def chip_name(environment: Environment, folders: Sequence[Path] = ()) -> str:
    """The name results are filed under: that of the data sheet, or the device's own."""
    return this_chip(environment, folders).name
