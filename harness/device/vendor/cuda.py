"""Whose chip it is that torch calls `cuda`: NVIDIA's, AMD's, Hygon's or MetaX's."""

import shutil

import torch

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device
from harness.device.extras import Extras, Seen
from harness.device.telemetry import Telemetry
from harness.device.vendor import amd, hygon, metax, nvidia


def extras(name: str) -> Extras:
    """Those of the chip's vendor, by how torch was built and what the chip is called."""
    if torch.version.hip:
        # DTK brings its own tool, and a host has chips of one vendor.
        return hygon.EXTRAS if shutil.which(hygon.TOOL) else amd.EXTRAS
    return metax.EXTRAS if name.startswith(metax.NAME) else nvidia.EXTRAS


def _telemetry(seen: Seen) -> Telemetry:
    return extras(seen.name).telemetry(seen)


EXTRAS = Extras(
    telemetry=_telemetry,
    facts=lambda seen: extras(seen.name).facts(seen),
)


def open_device(index: int) -> Device:
    """The chip of that index."""
    return AcceleratorDevice(index, EXTRAS)
