"""From the name in a configuration to a device that is really there."""

import contextlib

import torch

from harness.device import backends, plugins
from harness.device.accelerator import AcceleratorDevice
from harness.device.base import Device
from harness.device.cpu import CpuDevice
from harness.device.fake import FakeDevice
from harness.device.request import DeviceRequest
from harness.errors import ConfigError, did_you_mean


def open_device(request: DeviceRequest, processor: str, num_cores: int) -> Device:
    """The device asked for.

    Raises:
        ConfigError: when it is not there; nothing else is taken in its place.
    """
    name = _best() if request.name == "auto" else request.name
    if name == "fake":
        if request.index >= request.fake.count:
            raise ConfigError(
                f"device.index: {request.index} was asked for, but there are {request.fake.count} "
                "fake chips (device.fake.count); the first is 0."
            )
        return FakeDevice(request.fake, request.index)
    if name == "cpu":
        if request.index:
            raise ConfigError(
                f"device.index: {request.index} was asked for, but the processor is one device. "
                "Set device.index=0."
            )
        return CpuDevice(processor, num_cores)
    plugin = plugins.find(name)
    if plugin is not None:
        return plugins.open_plugin(plugin, request.index)
    return _accelerator(name, request.index)


def device_names() -> tuple[str, ...]:
    """Everything `device=` may be here, back-ends of other packages among them."""
    built_in = [backend.name for backend in backends.BACKENDS]
    return tuple(dict.fromkeys([*plugins.RESERVED, *built_in, *plugins.plugin_names()]))


def _best() -> str:
    """The accelerator where there is one, else the processor."""
    found = backends.current_type()
    if found is not None:
        return found
    for backend in backends.BACKENDS:
        # An extension that is broken is told of by the doctor, and where it is asked for by name.
        with contextlib.suppress(ConfigError):
            backends.load_extension(backend)
        found = backends.current_type()
        if found is not None:
            return found
    return "cpu"


def _accelerator(name: str, index: int) -> Device:
    backend = backends.find(name)
    found = backends.current_type()
    if backend is not None and found != name:
        backends.load_extension(backend)
        found = backends.current_type()
    if found != name:
        raise _not_here(name, backend, found)
    count = torch.accelerator.device_count()
    if index >= count:
        raise ConfigError(
            f"device.index: {index} was asked for, but there {_are(count)} of type '{name}'; "
            "the first is 0."
        )
    return AcceleratorDevice(index) if backend is None else backend.open_device(index)


def _are(count: int) -> str:
    return "is 1 device" if count == 1 else f"are {count} devices"


def _not_here(name: str, backend: backends.Backend | None, found: str | None) -> ConfigError:
    if backend is None:
        names = device_names()
        return ConfigError(
            f"device.name: nothing called '{name}'. {did_you_mean(name, names)}"
            f"There are {', '.join(names)}."
        )
    if not backend.is_installed:
        return ConfigError(
            f"device.name: '{name}' was asked for, but {backend.extension} is not installed here, "
            f"and torch {torch.__version__} sees no accelerator of that type without it. "
            f"Needed: {backend.install}."
        )
    if found is None:
        return ConfigError(
            f"device.name: '{name}' was asked for, but torch {torch.__version__} sees no "
            f"accelerator here. Needed: {backend.install}. `chipscale doctor` shows what is "
            "missing; device=cpu measures the processor."
        )
    return ConfigError(
        f"device.name: '{name}' was asked for, but the accelerator here is '{found}'. "
        f"Use device=auto or device={found}."
    )


def num_devices(request: DeviceRequest) -> int:
    """How many devices of the kind asked for this machine has; 0 where it has none of it.

    The processor is one device, however many sockets it has, and so is what another package's
    back-end opens, which does not tell. Opens none of them.
    """
    name = _best() if request.name == "auto" else request.name
    if name == "fake":
        return request.fake.count
    if name == "cpu" or plugins.find(name) is not None:
        return 1
    backend = backends.find(name)
    if backend is not None and backends.current_type() != name:
        with contextlib.suppress(ConfigError):
            backends.load_extension(backend)
    return torch.accelerator.device_count() if backends.current_type() == name else 0


def is_accelerator(request: DeviceRequest) -> bool:
    """Whether the device asked for works beside the host's processor and is really there."""
    name = _best() if request.name == "auto" else request.name
    return name not in ("fake", "cpu") and num_devices(request) > 0
