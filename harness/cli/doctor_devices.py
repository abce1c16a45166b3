"""What the doctor says of devices, back-ends and telemetry, and what to do about each."""

from dataclasses import dataclass

import torch

from harness.device import backends, pci, plugins
from harness.device.base import Device, DeviceState
from harness.device.cpu import CpuDevice
from harness.device.open import open_device
from harness.device.request import DeviceRequest
from harness.device.vendor.linux_cpu import unreadable_energy
from harness.environment import named, num_usable_cores, processor_name
from harness.errors import ChipscaleError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: str
    advice: str = ""
    """What to do; empty when all is well."""


def find_devices() -> tuple[list[Device], list[Finding]]:
    """Every device that can be opened here, and what is wrong with those that cannot."""
    found: list[Device] = [CpuDevice(processor_name(), num_usable_cores())]
    findings = []
    for backend in backends.BACKENDS:
        if backends.current_type() is not None:
            break  # Torch drives one type; another's extension may change torch for it.
        try:
            backends.load_extension(backend)
        except ChipscaleError as error:
            findings.append(
                Finding(what=f"back-end {backend.name}", state="broken", advice=str(error))
            )
    kind = backends.current_type()
    names = [kind] * torch.accelerator.device_count() if kind is not None else []
    for index, name in enumerate(names):
        _open(name, index, found, findings)
    for plugin in plugins.plugins():
        if plugin.is_reserved:
            findings.append(
                Finding(
                    what=f"back-end {plugin.name}",
                    state=f"{plugin.target} of {plugin.package}",
                    advice="never used: that name is one of ours; its makers must rename it",
                )
            )
        elif plugin.name != kind:
            _open(plugin.name, 0, found, findings)
    return found, findings


def _open(name: str, index: int, found: list[Device], findings: list[Finding]) -> None:
    request = DeviceRequest(name=name, index=index)
    try:
        found.append(open_device(request, processor_name(), num_usable_cores()))
    except Exception as error:  # One device that cannot be opened must not hide the others.
        findings.append(
            Finding(what=f"{name}:{index}", state="cannot be opened", advice=str(error))
        )


def backend_findings() -> list[Finding]:
    """Each kind of accelerator: whether one is here, whether torch sees it, and what is missing."""
    findings = []
    kind, chips = backends.current_type(), pci.accelerators()
    names = {plugin.name: plugin for plugin in plugins.plugins() if not plugin.is_reserved}
    for backend in backends.BACKENDS:
        num_chips = sum(chips[vendor] for vendor in backend.pci_vendors)
        state, advice = f"{backend.makers}: none here", ""
        if kind == backend.name:
            state = f"{torch.accelerator.device_count()} in use by torch"
        elif num_chips and kind is not None:
            # Torch drives one type of accelerator at a time; a server's display chip is another.
            state = f"{num_chips} on the PCI bus; torch uses {kind} here"
        elif num_chips:
            state = f"{num_chips} on the PCI bus, and torch sees none"
            advice = f"to measure on it: {backend.install}"
        elif backend.extension and backend.is_installed:
            state = f"{backend.extension} is installed, and no chip of {backend.makers} is seen"
            advice = "on a machine that has one: its driver"
        if backend.name in names:
            state = f"{state}; opened by {names[backend.name].package}"
        findings.append(Finding(what=f"back-end {backend.name}", state=state, advice=advice))
    for name, plugin in names.items():
        if backends.find(name) is None:
            findings.append(
                Finding(what=f"back-end {name}", state=f"{plugin.target} of {plugin.package}")
            )
    return findings


def telemetry_finding(device: Device) -> Finding:
    """What the device's state is read with, what it says now, and what would tell more."""
    info, state = device.info, device.state()
    if info.telemetry:
        shown = f"{info.telemetry}: {_readings(state)}"
    elif _readings(state):
        shown = _readings(state)
    else:
        shown = "nothing can be read"
    return Finding(
        what=f"{info.torch_device_type}:{info.index} telemetry",
        state=shown,
        advice=_telemetry_advice(device, state),
    )


def _readings(state: DeviceState) -> str:
    told = {
        "clock": None if state.clock_hz is None else f"{state.clock_hz / 1e6:.0f} MHz",
        "memory": None
        if state.memory_clock_hz is None
        else f"{state.memory_clock_hz / 1e6:.0f} MHz",
        "power": None if state.power_w is None else f"{state.power_w:.0f} W",
        "energy": None if state.energy_j is None else "counted",
        "temperature": None if state.temperature_c is None else f"{state.temperature_c:.0f} C",
        "held back by": ", ".join(state.throttle_reasons) or None,
    }
    return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


def _telemetry_advice(device: Device, state: DeviceState) -> str:
    if state.foreign_processes:
        return f"held by {named(state.foreign_processes)}: stop them before measuring"
    if device.info.torch_device_type == "cpu":
        locked = unreadable_energy()
        if locked:
            return f"energy is readable by root alone: sudo chmod a+r {' '.join(map(str, locked))}"
        if not device.info.telemetry:
            return (
                "no RAPL and no sensors, as in a virtual machine; on the host itself records have "
                "power and temperature"
            )
        return ""
    backend = backends.find(device.info.torch_device_type)
    if backend is None or device.info.telemetry or device.info.backend:
        return ""
    if not backend.telemetry:
        return "no tool of its makers is known here; records have no clocks and no power"
    return f"records have no clocks and no power without: {backend.telemetry}"
