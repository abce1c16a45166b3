"""The PCI bus tells whose accelerators are there, drivers or not."""

from pathlib import Path

from harness.device.pci import accelerators


def device(bus: Path, address: str, vendor: str, kind: str) -> None:
    folder = bus / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_accelerators_and_display_controllers_are_counted_by_maker(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    device(tmp_path, "0000:02:00.0", "0x10de", "0x030200")
    device(tmp_path, "0000:03:00.0", "0x19e5", "0x120000")
    device(tmp_path, "0000:04:00.0", "0x10de", "0x068000")  # A bridge.
    device(tmp_path, "0000:05:00.0", "0x8086", "0x020000")  # A network card.
    assert accelerators(tmp_path) == {"10de": 2, "19e5": 1}


def test_an_entry_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    assert not accelerators(tmp_path)


def test_a_system_without_such_a_bus_has_none(tmp_path: Path) -> None:
    assert not accelerators(tmp_path / "absent")
