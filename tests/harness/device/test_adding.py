"""The example of docs/adding.md is a package that works as it stands there."""

import os
import re
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from harness.device.open import open_device
from harness.device.request import DeviceRequest
from tests.harness.device import plugin_folder

DOCS = Path(__file__).parents[3] / "docs" / "adding.md"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", DOCS.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found.group(1)


class AcmeEvent:
    """An event of a device that works as fast as the host's clock."""

    def __init__(self, device: torch.device, enable_timing: bool) -> None:
        self.recorded_s = 0.0

    def record(self) -> None:
        self.recorded_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "AcmeEvent") -> float:
        return 1e3 * (end.recorded_s - self.recorded_s)


class AcmeError(Exception):
    """As Acme's library raises."""


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Acme's chip, driver, library and package on this host; what the library answers."""
    found: dict[str, object] = {}

    def query(chip: int) -> dict[str, object]:
        if not found:
            raise AcmeError("the chip has fallen off its bus")
        return found

    smi = ModuleType("acme_smi")
    vars(smi).update(__version__="4.2", query=query, AcmeError=AcmeError)
    monkeypatch.setitem(sys.modules, "acme_smi", smi)
    monkeypatch.setitem(sys.modules, "torch_acme", ModuleType("torch_acme"))
    monkeypatch.delitem(sys.modules, "acme_chipscale", raising=False)
    properties = SimpleNamespace(name="Acme One", total_memory=2**30, acme_cores=12)
    module = SimpleNamespace(get_device_properties=lambda index: properties)
    monkeypatch.setattr(torch, "Event", AcmeEvent)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    for name, answer in (
        ("current_accelerator", torch.device("cpu")),
        ("set_device_index", None),
        ("synchronize", None),
    ):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, answer=answer, **__: answer)
    declared = tomllib.loads(block("toml"))["project"]["entry-points"]["chipscale.devices"]
    folder = plugin_folder.install(
        tmp_path, "acme-chipscale", declared, {"acme_chipscale": block("python")}
    )
    monkeypatch.syspath_prepend(str(folder))
    return found


def test_the_example_opens_a_device_with_what_the_vendor_knows(answers: dict[str, object]) -> None:
    info = open_device(DeviceRequest(name="acme"), "a processor", 1).info
    assert (info.name, info.backend, info.telemetry) == (
        "Acme One",
        "acme-chipscale 1.0",
        "acme-smi 4.2",
    )
    assert (info.last_level_cache_bytes, info.num_compute_units) == (96 * 2**20, 12)
    assert info.memory_bytes == 2**30


def test_the_examples_telemetry_is_read_and_its_failure_stops_nothing(
    answers: dict[str, object],
) -> None:
    device = open_device(DeviceRequest(name="acme"), "a processor", 1)
    assert device.state().clock_hz is None
    answers.update(
        clock_mhz=1500, power_mw="N/A", temperature_c=91, is_hot=True, pids=[os.getpid()]
    )
    state = device.state()
    assert (state.clock_hz, state.power_w, state.temperature_c) == (1500e6, None, 91.0)
    assert state.is_throttled
    assert state.foreign_processes == ()
