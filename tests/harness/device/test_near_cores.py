"""A worker stays on the cores near its device where the host tells them, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.device.near_cores import cores_at, near_cores, parse_cores, stay_near


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}),
        ("7", {7}),
        ("", set()),
        ("\n", set()),
    ],
)
def test_the_kernels_lists_are_read(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


def test_the_list_of_a_device_is_found_by_its_address(tmp_path: Path) -> None:
    place = tmp_path / "0000:3b:00.0"
    place.mkdir()
    (place / "local_cpulist").write_text("0-15,32-47\n", encoding="ascii")
    assert cores_at("0000:3b:00.0", tmp_path) == "0-15,32-47"
    assert cores_at("0000:5e:00.0", tmp_path) == ""


def test_a_chips_place_on_the_bus_leads_to_its_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = SimpleNamespace(pci_domain_id=1, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: placed)
    (tmp_path / "0001:3b:00.0").mkdir()
    (tmp_path / "0001:3b:00.0" / "local_cpulist").write_text("0-15\n", encoding="ascii")
    assert near_cores(torch.device("cuda", 0), tmp_path) == "0-15"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    assert near_cores(torch.device("cuda", 0), tmp_path) == ""


def test_the_processor_is_near_all_cores() -> None:
    assert near_cores(torch.device("cpu")) == ""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the host has no affinity")
def test_a_list_without_a_usable_core_changes_nothing() -> None:
    before = os.sched_getaffinity(0)
    for cores in ("", "100000", f"{min(before)}-{max(before)}" if len(before) == 1 else ""):
        assert stay_near(cores) == ""
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core only")
def test_every_thread_of_the_process_stays_near() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        "import os, threading\n"
        "from harness.device.near_cores import stay_near\n"
        "go, seen = threading.Event(), []\n"
        "def wait():\n"
        "    go.wait()\n"
        "    seen.append(os.sched_getaffinity(0))\n"
        "thread = threading.Thread(target=wait)\n"
        "thread.start()\n"
        f"assert stay_near('{core}') == '{core}'\n"
        "go.set()\n"
        "thread.join()\n"
        f"assert seen == [{{{core}}}] == [os.sched_getaffinity(0)], seen\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
