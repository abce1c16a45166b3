"""What the doctor says of devices and back-ends, and what to do about each."""

from collections import Counter

import pytest
import torch

from harness.cli import doctor_devices
from harness.cli.doctor_devices import Finding, backend_findings, find_devices, telemetry_finding
from harness.device.base import Device, DeviceInfo, DeviceState
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions


def on_the_bus(monkeypatch: pytest.MonkeyPatch, **chips: int) -> None:
    found = Counter({name.removeprefix("v"): number for name, number in chips.items()})
    monkeypatch.setattr(doctor_devices.pci, "accelerators", lambda: found)


def finding_of(name: str) -> Finding:
    return next(one for one in backend_findings() if one.what == f"back-end {name}")


def device(state: DeviceState, **info: object) -> Device:
    made = FakeDevice(FakeOptions())
    made.info = DeviceInfo(**{"name": "a chip", "torch_device_type": "npu", **info})  # type: ignore[arg-type]
    made.state = lambda: state  # type: ignore[method-assign]
    return made


def test_a_host_without_accelerators_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_bus(monkeypatch)
    monkeypatch.setattr(doctor_devices.backends, "current_type", lambda: None)
    assert not any(one.advice for one in backend_findings())
    assert {"back-end cuda", "back-end npu", "back-end mps"} <= {
        one.what for one in backend_findings()
    }


def test_a_chip_that_torch_does_not_see_comes_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_the_bus(monkeypatch, v19e5=8)
    monkeypatch.setattr(doctor_devices.backends, "current_type", lambda: None)
    found = finding_of("npu")
    assert found.state == "8 on the PCI bus, and torch sees none"
    assert "pip install torch-npu" in found.advice
    assert not finding_of("cuda").advice


def test_a_servers_display_chip_beside_its_accelerators_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_the_bus(monkeypatch, v10de=4, v8086=1)
    monkeypatch.setattr(doctor_devices.backends, "current_type", lambda: "cuda")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert finding_of("cuda") == Finding(what="back-end cuda", state="4 in use by torch")
    assert finding_of("xpu") == Finding(
        what="back-end xpu", state="1 on the PCI bus; torch uses cuda here"
    )


def test_what_the_state_is_read_with_and_says_is_shown() -> None:
    state = DeviceState(clock_hz=1.98e9, power_w=350.4, temperature_c=61.0, energy_j=1.0)
    found = telemetry_finding(device(state, telemetry="NVML 575.57"))
    assert found == Finding(
        what="npu:0 telemetry",
        state="NVML 575.57: clock 1980 MHz, power 350 W, energy counted, temperature 61 C",
    )


def test_a_device_that_nothing_reads_comes_with_the_tool_it_needs() -> None:
    found = telemetry_finding(device(DeviceState()))
    assert found.state == "nothing can be read"
    assert found.advice.endswith("npu-smi on PATH, which comes with the driver")


def test_a_device_that_is_held_says_by_whom() -> None:
    state = DeviceState(power_w=1.0, foreign_processes=("trainer (4711)",))
    found = telemetry_finding(device(state, telemetry="npu-smi"))
    assert found.advice == "held by trainer (4711): stop them before measuring"


def test_energy_that_only_root_may_read_comes_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = "/sys/class/powercap/intel-rapl:0/energy_uj"
    monkeypatch.setattr(doctor_devices, "unreadable_energy", lambda: (path,))
    found = telemetry_finding(device(DeviceState(), torch_device_type="cpu"))
    assert found.advice == f"energy is readable by root alone: sudo chmod a+r {path}"


def test_one_device_that_cannot_be_opened_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor_devices.backends, "current_type", lambda: "cuda")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)

    def opened(request: object, processor: str, num_cores: int) -> Device:
        if request.index == 0:  # type: ignore[attr-defined]
            raise RuntimeError("CUDA error: ECC uncorrectable")
        return device(DeviceState())

    monkeypatch.setattr(doctor_devices, "open_device", opened)
    devices, broken = find_devices()
    assert [one.info.torch_device_type for one in devices] == ["cpu", "npu"]
    assert broken == [
        Finding(what="cuda:0", state="cannot be opened", advice="CUDA error: ECC uncorrectable")
    ]
