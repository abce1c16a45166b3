"""What the kernel shows of a processor and of Intel's GPUs, on a copy of its folders."""

from pathlib import Path

import pytest
import torch

from harness.device.base import POWER_CAP, DeviceState
from harness.device.counter import CounterFile, EnergyCounter
from harness.device.extras import Seen
from harness.device.vendor import intel
from harness.device.vendor.linux_cpu import THROTTLED, LinuxCpuTelemetry, unreadable_energy


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def write(path: Path, text: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")
    return path


def test_a_counter_that_went_around_goes_on(tmp_path: Path) -> None:
    file = write(tmp_path / "energy_uj", 900_000)
    counter = EnergyCounter([CounterFile(path=file, range_uj=1_000_000)])
    assert counter.read()[0] == 0.0
    write(file, 100_000)
    assert counter.read()[0] == pytest.approx(0.2)
    write(file, 50_000)
    assert counter.read()[0] == pytest.approx(0.2 + 0.95)


def test_power_is_the_mean_since_the_last_reading(tmp_path: Path) -> None:
    clock, file = Clock(), write(tmp_path / "energy_uj", 0)
    counter = EnergyCounter([CounterFile(path=file)], clock)
    assert counter.read() == (0.0, None)
    write(file, 30_000_000)
    clock.now_s = 0.5
    assert counter.read() == (pytest.approx(30.0), pytest.approx(60.0))


def test_power_of_an_instant_is_that_of_the_last_interval(tmp_path: Path) -> None:
    clock, file = Clock(), write(tmp_path / "energy_uj", 0)
    counter = EnergyCounter([CounterFile(path=file)], clock)
    counter.read()
    write(file, 10_000_000)
    clock.now_s = 1.0
    counter.read()
    write(file, 11_000_000)
    clock.now_s = 1.0001
    assert counter.read() == (pytest.approx(11.0), pytest.approx(10.0))


def test_a_part_of_the_energy_is_no_energy(tmp_path: Path) -> None:
    first = write(tmp_path / "first", 5)
    counter = EnergyCounter([CounterFile(path=first), CounterFile(path=tmp_path / "second")])
    assert counter.read() == (None, None)
    assert EnergyCounter([]).read() == (None, None)
    assert EnergyCounter([CounterFile(path=write(tmp_path / "x", "?"))]).read() == (None, None)


@pytest.fixture
def sys_folder(tmp_path: Path) -> Path:
    """Two sockets of Intel's, with the parts and the platform zone that RAPL lists beside them."""
    for socket in (0, 1):
        zone = tmp_path / "class" / "powercap" / f"intel-rapl:{socket}"
        write(zone / "name", f"package-{socket}")
        write(zone / "energy_uj", 1_000_000)
        write(zone / "max_energy_range_uj", 262_143_328_850)
        write(zone.with_name(f"intel-rapl:{socket}:0") / "name", "dram")
        write(zone.with_name(f"intel-rapl:{socket}:0") / "energy_uj", 77)
        hwmon = tmp_path / "class" / "hwmon" / f"hwmon{socket}"
        write(hwmon / "name", "coretemp")
        write(hwmon / "temp1_label", f"Package id {socket}")
        write(hwmon / "temp1_input", 50_000 + 5_000 * socket)
        write(hwmon / "temp2_label", "Core 0")
        write(hwmon / "temp2_input", 99_000)
        for core in (0, 1):
            cpu = tmp_path / "devices" / "system" / "cpu" / f"cpu{2 * socket + core}"
            write(cpu / "topology" / "physical_package_id", socket)
            write(cpu / "thermal_throttle" / "package_throttle_count", 5)
    write(tmp_path / "class" / "powercap" / "intel-rapl:2" / "name", "psys")
    write(tmp_path / "class" / "powercap" / "intel-rapl:2" / "energy_uj", 1)
    write(tmp_path / "class" / "hwmon" / "hwmon2" / "name", "nvme")
    return tmp_path


def test_the_sockets_energies_are_added_without_their_parts(sys_folder: Path) -> None:
    reader = LinuxCpuTelemetry(sys_folder)
    assert reader.source == "RAPL, hwmon, thermal_throttle"
    before = reader.state().energy_j
    for socket in (0, 1):
        write(sys_folder / "class" / "powercap" / f"intel-rapl:{socket}" / "energy_uj", 3_000_000)
    after = reader.state().energy_j
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(4.0)


def test_the_hottest_socket_is_the_temperature(sys_folder: Path) -> None:
    assert LinuxCpuTelemetry(sys_folder).state().temperature_c == 55.0


def test_throttling_is_what_was_counted_since_the_last_reading(sys_folder: Path) -> None:
    reader = LinuxCpuTelemetry(sys_folder)
    assert reader.state().throttle_reasons == ()
    cpu = sys_folder / "devices" / "system" / "cpu" / "cpu2"
    write(cpu / "thermal_throttle" / "package_throttle_count", 6)
    assert reader.state().throttle_reasons == (THROTTLED,)
    assert reader.state().throttle_reasons == ()


def test_a_board_without_sensor_drivers_has_thermal_zones(tmp_path: Path) -> None:
    for index, (kind, value) in enumerate([("acpitz", 27_800), ("cpu-thermal", 61_250)]):
        zone = tmp_path / "class" / "thermal" / f"thermal_zone{index}"
        write(zone / "type", kind)
        write(zone / "temp", value)
    assert LinuxCpuTelemetry(tmp_path).state().temperature_c == 61.25


def test_a_virtual_machine_shows_nothing(tmp_path: Path) -> None:
    reader = LinuxCpuTelemetry(tmp_path)
    assert (reader.source, reader.state()) == ("", DeviceState())


def test_counters_that_only_root_may_read_are_named(
    sys_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unreadable_energy(sys_folder) == ()
    read_text = Path.read_text

    def forbidden(path: Path, *arguments: object, **options: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", forbidden)
    locked = unreadable_energy(sys_folder)
    assert [path.parent.name for path in locked] == ["intel-rapl:0", "intel-rapl:1"]
    reader = LinuxCpuTelemetry(sys_folder)
    assert reader.source == "hwmon, thermal_throttle"
    assert (reader.state().energy_j, reader.state().power_w) == (None, None)


def card(root: Path, number: int, address: str, driver: str) -> Path:
    """The folders of one GPU; returns that of its PCI device."""
    device = root / "devices" / address
    (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
    device.mkdir(parents=True)
    (device / "driver").symlink_to(root / "drivers" / driver)
    entry = root / "drm" / f"card{number}"
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(device)
    (root / "drm" / f"card{number}-DP-1").mkdir()
    return device


@pytest.fixture
def xe(tmp_path: Path) -> Path:
    device = card(tmp_path, 1, "0000:03:00.0", "xe")
    write(device / "hwmon" / "hwmon3" / "energy1_input", 5_000_000)
    write(device / "hwmon" / "hwmon3" / "energy2_input", 1)
    write(device / "hwmon" / "hwmon3" / "temp2_input", 48_000)
    freq = device / "tile0" / "gt0" / "freq0"
    write(freq / "act_freq", 2400)
    for name in intel.REASONS:
        write(freq / "throttle" / f"reason_{name}", 0)
    return device


def test_intels_xe_driver_tells_everything_but_processes(tmp_path: Path, xe: Path) -> None:
    reader = intel.IntelTelemetry(intel.cards(tmp_path / "drm")[0])
    assert reader.source == "sysfs of xe"
    reader.state()
    write(xe / "hwmon" / "hwmon3" / "energy1_input", 8_000_000)
    write(xe / "tile0" / "gt0" / "freq0" / "throttle" / "reason_pl1", 1)
    write(xe / "tile0" / "gt0" / "freq0" / "throttle" / "reason_thermal", 1)
    state = reader.state()
    assert (state.clock_hz, state.temperature_c) == (2400e6, 48.0)
    assert state.energy_j == pytest.approx(3.0)
    assert state.throttle_reasons == (POWER_CAP, "thermal limit")
    assert state.is_throttled


def test_intels_older_driver_has_other_files(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:4d:00.0", "i915")
    gt = tmp_path / "drm" / "card0" / "gt" / "gt0"
    write(gt / "rps_act_freq_mhz", 1600)
    write(gt / "throttle_reason_pl2", 1)
    state = intel.IntelTelemetry(intel.cards(tmp_path / "drm")[0]).state()
    assert (state.clock_hz, state.throttle_reasons) == (1600e6, (POWER_CAP,))
    assert (state.energy_j, state.power_w, state.temperature_c) == (None, None, None)


def test_only_intels_cards_count_in_the_order_of_the_bus(tmp_path: Path) -> None:
    card(tmp_path, 0, "0000:9a:00.0", "xe")
    card(tmp_path, 1, "0000:03:00.0", "ast")
    card(tmp_path, 2, "0000:1b:00.0", "xe")
    found = intel.cards(tmp_path / "drm")
    assert [one.device.name for one in found] == ["0000:1b:00.0", "0000:9a:00.0"]


def test_intels_card_is_not_guessed_where_there_are_more_than_torch_sees(
    tmp_path: Path, xe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = intel.cards(tmp_path / "drm")
    monkeypatch.setattr(intel, "cards", lambda: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert intel.telemetry(Seen(index=0, name="Arc")).source == "sysfs of xe"
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert intel.telemetry(Seen(index=0, name="Arc")).source == ""
    placed = Seen(index=0, name="Arc", pci_address="0000:03:00.0")
    assert intel.telemetry(placed).source == "sysfs of xe"
