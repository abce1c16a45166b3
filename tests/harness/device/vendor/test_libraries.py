"""NVIDIA's and AMD's libraries, on stand-ins for their Python modules."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.device.base import POWER_CAP, DeviceState
from harness.device.extras import Seen
from harness.device.vendor import amd, cuda, hygon, metax, nvidia

OWN = os.getpid()
SEEN = Seen(index=0, name="a chip", uuid="8932f937", pci_address="0000:c1:00.0")


class NVMLError(Exception):
    """As NVML's binding raises."""


class StandInNvml:
    """A board with every sensor; those in `missing` are not supported on it."""

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, **answers: Any) -> None:
        self.missing: set[str] = set()
        self.names = ["GPU-8932f937"]
        self.answers = {
            "nvmlSystemGetDriverVersion": "575.57",
            "nvmlDeviceGetPowerUsage": 350_000,
            "nvmlDeviceGetCudaComputeCapability": (8, 0),
            "nvmlDeviceGetTotalEnergyConsumption": 7_000_000,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetMPSComputeRunningProcesses": [],
            **answers,
        }

    def nvmlInit(self) -> None:  # noqa: N802
        if "driver" in self.missing:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, name: str) -> str:  # noqa: N802
        if name not in self.names:
            raise NVMLError("Not Found")
        return name

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> str:  # noqa: N802
        return address

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802
        if "nvmlDeviceGetClockInfo" in self.missing:
            raise NVMLError("Not Supported")
        return {self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[kind]

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def asked(*arguments: object) -> Any:
            if name in self.missing:
                raise NVMLError("Not Supported")
            return self.answers[name]

        return asked


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> StandInNvml:
    made = StandInNvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    return made


def test_nvml_tells_everything_in_si(nvml: StandInNvml) -> None:
    reader = nvidia.telemetry(SEEN)
    assert reader.source == "NVML 575.57"
    assert reader.state() == DeviceState(
        clock_hz=1980e6,
        memory_clock_hz=2619e6,
        power_w=350.0,
        energy_j=7000.0,
        temperature_c=61.0,
    )


def power_field(milliwatts: int, code: int = 0) -> list[SimpleNamespace]:
    """As `nvmlDeviceGetFieldValues` answers for one field."""
    return [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=milliwatts))]


def test_power_is_of_the_moment_where_the_chip_tells_it(nvml: StandInNvml) -> None:
    nvml.answers["nvmlDeviceGetFieldValues"] = power_field(500_000)
    reader = nvidia.telemetry(SEEN)
    assert reader.source == "NVML 575.57"
    assert reader.state().power_w == 500.0


@pytest.mark.parametrize("answer", [power_field(9, code=3), power_field(0), [], None, "nonsense"])
@pytest.mark.parametrize("capability", [(8, 6), (9, 0), None])
def test_power_that_is_a_mean_is_said_to_be_one(
    nvml: StandInNvml, answer: object, capability: object
) -> None:
    nvml.answers["nvmlDeviceGetFieldValues"] = answer
    nvml.answers["nvmlDeviceGetCudaComputeCapability"] = capability
    reader = nvidia.telemetry(SEEN)
    assert reader.source == "NVML 575.57, power is a mean over 1 s"
    assert reader.state().power_w == 350.0


@pytest.mark.parametrize("capability", [(7, 0), (8, 0)])
def test_older_chips_and_the_a100_tell_the_power_of_the_moment_without_the_field(
    nvml: StandInNvml, capability: tuple[int, int]
) -> None:
    nvml.answers["nvmlDeviceGetCudaComputeCapability"] = capability
    assert nvidia.telemetry(SEEN).source == "NVML 575.57"


def test_a_field_that_fails_later_is_not_replaced_by_a_mean(nvml: StandInNvml) -> None:
    nvml.answers["nvmlDeviceGetFieldValues"] = power_field(500_000)
    reader = nvidia.telemetry(SEEN)
    nvml.missing.add("nvmlDeviceGetFieldValues")
    assert reader.state().power_w is None


@pytest.mark.parametrize(
    ("sensor", "field"),
    [
        ("nvmlDeviceGetClockInfo", "clock_hz"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
    ],
)
def test_a_sensor_that_a_board_has_not_takes_no_other_with_it(
    nvml: StandInNvml, sensor: str, field: str
) -> None:
    nvml.missing.add(sensor)
    state = nvidia.telemetry(SEEN).state()
    assert getattr(state, field) is None
    told = (state.clock_hz, state.power_w, state.energy_j, state.temperature_c)
    assert sum(value is not None for value in told) == 3


@pytest.mark.parametrize("answer", ["nonsense", -1, float("nan"), None, 2**70])
def test_nonsense_from_nvml_stops_nothing(nvml: StandInNvml, answer: object) -> None:
    for name in nvml.answers:
        nvml.answers[name] = answer
    nvidia.telemetry(SEEN).state()


@pytest.mark.parametrize(
    ("bits", "reasons", "is_throttled"),
    [
        (0x0, (), False),
        (0x1, (), False),
        (0x2, ("clock setting",), False),
        (0x102, ("clock setting",), False),
        (0x4, (POWER_CAP,), False),
        (0x10, ("sync boost",), False),
        (0x200, ("board limit",), False),
        (0x8, ("hardware slowdown",), True),
        (0x20, ("software thermal slowdown",), True),
        (0x44, (POWER_CAP, "hardware thermal slowdown"), True),
        (0x80, ("hardware power brake",), True),
    ],
)
def test_bits_are_reasons_and_only_some_of_them_go_with_a_rest(
    nvml: StandInNvml, bits: int, reasons: tuple[str, ...], is_throttled: bool
) -> None:
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = bits
    state = nvidia.telemetry(SEEN).state()
    assert state.throttle_reasons == reasons
    assert state.is_throttled == is_throttled


def test_an_older_driver_has_the_older_name(nvml: StandInNvml) -> None:
    del nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"]
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x40
    assert nvidia.telemetry(SEEN).state().throttle_reasons == ("hardware thermal slowdown",)


def test_other_programs_on_the_chip_are_told_also_through_mps(nvml: StandInNvml) -> None:
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = [
        SimpleNamespace(pid=OWN),
        SimpleNamespace(pid=999999991),
    ]
    nvml.answers["nvmlDeviceGetMPSComputeRunningProcesses"] = [SimpleNamespace(pid=999999992)]
    assert nvidia.telemetry(SEEN).state().foreign_processes == (
        "process (999999991)",
        "process (999999992)",
    )


def test_the_same_chip_is_found_by_its_number_or_its_place(nvml: StandInNvml) -> None:
    nvml.names = ["MIG-8932f937"]
    assert nvidia.telemetry(SEEN).source
    nvml.names = []
    assert nvidia.telemetry(SEEN).source
    assert not nvidia.telemetry(Seen(index=0, name="a chip")).source


def test_nvidias_driver_is_as_its_own_file_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(nvidia, "_DRIVER", file)
    assert nvidia.facts(SEEN).driver == ""
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n"
        "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
    )
    assert nvidia.facts(SEEN).driver == "575.57.08"


def test_a_host_without_nvidias_driver_has_no_telemetry(nvml: StandInNvml) -> None:
    nvml.missing.add("driver")
    assert nvidia.telemetry(SEEN).source == ""
    assert nvidia.telemetry(SEEN).state() == DeviceState()


class StandInAmdSmi:
    """An MI300X; its table of metrics may be changed between two readings."""

    __version__ = "25.5.1"

    def __init__(self) -> None:
        self.processes: Any = []
        self.metrics: Any = {
            "temperature_hotspot": 55,
            "temperature_edge": "N/A",
            "current_socket_power": 640,
            "average_socket_power": "N/A",
            "current_gfxclk": "N/A",
            "current_gfxclks": [2100, 2000, 65535, "N/A"],
            "current_uclk": 1300,
            "ppt_residency_acc": 10,
            "prochot_residency_acc": 0,
            "socket_thm_residency_acc": 3,
            "vr_thm_residency_acc": "N/A",
            "hbm_thm_residency_acc": 0,
        }
        self.energy: Any = {"energy_accumulator": 10**9, "counter_resolution": 15.3}

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["first", "second"]

    def amdsmi_get_processor_handle_from_bdf(self, address: str) -> str:
        if address != "0000:c1:00.0":
            raise ValueError("no such device")
        return address

    def amdsmi_get_gpu_metrics_info(self, handle: str) -> Any:
        if isinstance(self.metrics, Exception):
            raise self.metrics
        return self.metrics

    def amdsmi_get_energy_count(self, handle: str) -> Any:
        return self.energy

    def amdsmi_get_gpu_process_list(self, handle: str) -> Any:
        return self.processes


@pytest.fixture
def smi(monkeypatch: pytest.MonkeyPatch) -> StandInAmdSmi:
    made = StandInAmdSmi()
    monkeypatch.setitem(sys.modules, "amdsmi", made)  # type: ignore[arg-type]
    return made


def test_amd_smi_tells_everything_in_si(smi: StandInAmdSmi) -> None:
    reader = amd.telemetry(SEEN)
    assert reader.source == "AMD SMI 25.5.1"
    state = reader.state()
    assert state.clock_hz == pytest.approx(2050e6)  # Of the dies that are there.
    assert state.memory_clock_hz == 1300e6
    assert state.power_w == 640.0
    assert state.energy_j == pytest.approx(15_300.0)
    assert state.temperature_c == 55.0
    assert state.throttle_reasons == ()


def test_what_held_the_chip_back_since_the_last_reading_is_a_reason(smi: StandInAmdSmi) -> None:
    reader = amd.telemetry(SEEN)
    smi.metrics["ppt_residency_acc"] = 12
    assert reader.state().throttle_reasons == (POWER_CAP,)
    smi.metrics["hbm_thm_residency_acc"] = 1
    assert reader.state().throttle_reasons == ("memory thermal limit",)
    assert reader.state().throttle_reasons == ()


def test_the_energy_counter_had_another_name_before(smi: StandInAmdSmi) -> None:
    smi.energy = {"power": 10**6, "counter_resolution": 15.0}
    assert amd.telemetry(SEEN).state().energy_j == pytest.approx(15.0)


@pytest.mark.parametrize("metrics", [None, [], {}, RuntimeError("AMDSMI_STATUS_BUSY")])
@pytest.mark.parametrize("energy", [None, {}, {"energy_accumulator": "N/A"}])
def test_nonsense_from_amd_smi_stops_nothing(
    smi: StandInAmdSmi, metrics: object, energy: object
) -> None:
    smi.metrics, smi.energy, smi.processes = metrics, energy, energy
    assert amd.telemetry(SEEN).state() == DeviceState()


def test_other_programs_on_amds_chip_are_told(smi: StandInAmdSmi) -> None:
    smi.processes = [{"pid": OWN, "name": "python"}, {"pid": 999999991, "name": "/opt/trainer"}]
    assert amd.telemetry(SEEN).state().foreign_processes == ("trainer (999999991)",)
    smi.processes = ["a handle, as of older releases"]
    assert amd.telemetry(SEEN).state().foreign_processes == ()


def test_amds_chip_is_not_guessed_among_several(smi: StandInAmdSmi) -> None:
    assert amd.telemetry(Seen(index=0, name="a chip")).source == ""
    assert amd.telemetry(Seen(index=0, name="a chip", pci_address="0000:01:00.0")).source == ""


def test_a_host_without_amd_smi_has_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert amd.telemetry(SEEN).state() == DeviceState()


def test_the_cache_behind_amds_l2_is_the_one_to_flush() -> None:
    mi300x = SimpleNamespace(gcnArchName="gfx942:sramecc+:xnack-", L2_cache_size=4 * 2**20)
    facts = amd.facts(Seen(index=0, name="AMD Instinct MI300X", properties=mi300x))
    assert facts.last_level_cache_bytes == 256 * 2**20
    mi250x = SimpleNamespace(gcnArchName="gfx90a:sramecc+:xnack-", L2_cache_size=8 * 2**20)
    assert amd.facts(Seen(index=0, name="", properties=mi250x)).last_level_cache_bytes is None


@pytest.mark.parametrize(
    ("hip", "name", "has_hy_smi", "extras"),
    [
        (None, "NVIDIA H200", False, nvidia.EXTRAS),
        (None, "MetaX C500", False, metax.EXTRAS),
        ("6.4", "AMD Instinct MI300X", False, amd.EXTRAS),
        ("6.3", "K100_AI", True, hygon.EXTRAS),
    ],
)
def test_four_vendors_share_the_name_cuda(
    hip: str | None,
    name: str,
    has_hy_smi: bool,
    extras: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(cuda.shutil, "which", lambda tool: "/opt/hy-smi" if has_hy_smi else None)
    assert cuda.extras(name) is extras
