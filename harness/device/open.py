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
        if request.index >= request.fake.count:
            raise ConfigError(
                f"device.index: {request.index} was asked for, but there are {request.fake.count} "
                "fake chips (device.fake.count); the first is 0."
            )
        return FakeDevice(request.fake, request.index)
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


def num_devices(request: DeviceRequest) -> int:
    """How many devices of the kind asked for this machine has; 0 where it has none of it.

    The processor is one device, however many sockets it has. Opens none of them.
    """
    if request.name == "fake":
        return request.fake.count
    if request.name == "cpu":
        return 1
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return 1 if request.name == "auto" else 0
    return torch.accelerator.device_count() if request.name in ("auto", accelerator.type) else 0


def is_accelerator(request: DeviceRequest) -> bool:
    """Whether the device asked for works beside the host's processor and is really there."""
    if request.name in ("fake", "cpu"):
        return False
    return torch.accelerator.current_accelerator(check_available=True) is not None
