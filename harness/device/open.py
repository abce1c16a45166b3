"""From the name in a configuration to a device that is really there."""

import torch

from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device
from harness.device.cpu import CpuDevice
from harness.device.fake import FakeDevice
from harness.device.request import DeviceRequest
from harness.errors import ConfigError


def open_device(request: DeviceRequest, processor: str, num_cores: int) -> Device:
    """The device asked for.

    Raises:
        ConfigError: when it is not there; nothing else is taken in its place.
    """
    if request.name == "fake":
        return FakeDevice(request.fake)
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if request.name == "cpu" and request.index:
        raise ConfigError(
            f"device.index: {request.index} was asked for, but the processor is one device. "
            "Set device.index=0."
        )
    if request.name == "cpu" or (request.name == "auto" and accelerator is None):
        return CpuDevice(processor, num_cores)
    if accelerator is None:
        raise ConfigError(
            f"device.name: '{request.name}' was asked for, but torch {torch.__version__} sees no "
            "accelerator here. `chipscale doctor` shows what is missing; device=cpu measures "
            "the processor."
        )
    if request.name not in ("auto", accelerator.type):
        raise ConfigError(
            f"device.name: '{request.name}' was asked for, but the accelerator here is "
            f"'{accelerator.type}'. Use device=auto or device={accelerator.type}."
        )
    count = torch.accelerator.device_count()
    if request.index >= count:
        raise ConfigError(
            f"device.index: {request.index} was asked for, but there are {count} devices of type "
            f"'{accelerator.type}'; the first is 0."
        )
    return AcceleratorDevice(request.index)
