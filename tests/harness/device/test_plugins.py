"""Back-ends of other packages: found without being imported, refused with their package's name."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from harness.config.compose import compose
from harness.device import backends, plugins
from harness.device import open as open_module
from harness.device.backends import BACKENDS, Backend
from harness.device.open import device_names, open_device
from harness.device.request import DeviceRequest
from harness.errors import ConfigError
from tests.harness.device import plugin_folder

ROOT = Path(__file__).parents[3]
DEVICE = """
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions

def open_device(index):
    return FakeDevice(FakeOptions(seed=index))

def open_nothing(index):
    return object()

def open_broken(index):
    raise OSError("libacme.so.1 is missing\\nand much more")
"""

Install = Callable[[str, dict[str, str]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with these entry points on the path of this process."""

    def installed(package: str, entry_points: dict[str, str]) -> None:
        folder = plugin_folder.install(
            tmp_path / package, package, entry_points, {"acme_chips_of_a_test": DEVICE}
        )
        monkeypatch.syspath_prepend(str(folder))

    return installed


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Extensions of one test are not installed in the next."""
    yield
    for name in ("torch_mlu", "torch_musa"):
        sys.modules.pop(name, None)


def open_named(name: str, index: int = 0) -> object:
    return open_device(DeviceRequest(name=name, index=index), "a processor", 1)


def test_a_packages_device_is_opened_with_its_index_and_names_the_package(
    install: Install,
) -> None:
    install("acme-chips", {"acme": "acme_chips_of_a_test:open_device"})
    device = open_device(DeviceRequest(name="acme", index=3), "a processor", 1)
    assert device.info.uuid == "fake-3-0"
    assert device.info.backend == "acme-chips 1.0"


def test_listing_imports_nothing(install: Install) -> None:
    install("acme-chips", {"acme": "no_such_module:open_device"})
    assert "acme" in device_names()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("no_such_module:open_device", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("acme_chips_of_a_test:no_such_function", "AttributeError"),
        ("acme_chips_of_a_test:open_broken", "OSError: libacme.so.1 is missing. Update"),
        ("acme_chips_of_a_test:open_nothing", "no device: it has no info, torch_device, timer"),
    ],
)
def test_a_broken_one_is_told_of_with_package_and_entry_point(
    install: Install, target: str, told: str
) -> None:
    install("acme-chips", {"acme": target})
    with pytest.raises(ConfigError) as caught:
        open_named("acme")
    assert f"'acme' is {target} of acme-chips 1.0" in str(caught.value)
    assert told in str(caught.value)


def test_a_broken_one_disturbs_nobody_else(install: Install) -> None:
    install("acme-chips", {"acme": "no_such_module:open_device"})
    open_named("fake")
    open_named("cpu")


def test_two_packages_with_one_name_are_told_apart_by_the_user(install: Install) -> None:
    install("acme-chips", {"acme": "acme_chips_of_a_test:open_device"})
    install("zenith-chips", {"acme": "acme_chips_of_a_test:open_device"})
    with pytest.raises(ConfigError, match=r"acme-chips 1\.0 and zenith-chips 1\.0"):
        open_named("acme")


def test_a_vendors_package_goes_before_the_generic_back_end(install: Install) -> None:
    install("acme-npu", {"npu": "acme_chips_of_a_test:open_device"})
    device = open_device(DeviceRequest(name="npu"), "a processor", 1)
    assert device.info.backend == "acme-npu 1.0"


def test_no_package_takes_a_name_that_means_the_same_everywhere(install: Install) -> None:
    install("acme-chips", {"cpu": "no_such_module:open_device"})
    device = open_device(DeviceRequest(name="cpu"), "a processor", 1)
    assert device.info.backend == ""


def test_its_name_is_a_device_of_the_configuration(install: Install) -> None:
    install("acme-chips", {"acme": "acme_chips_of_a_test:open_device"})
    composed = compose("run", ["device=acme", "device.index=1"])
    assert (composed.device.name, composed.device.index) == ("acme", 1)


def test_a_name_that_is_not_there_gets_the_nearest_and_all_there_are(install: Install) -> None:
    install("acme-chips", {"acme": "acme_chips_of_a_test:open_device"})
    with pytest.raises(ConfigError, match=r"'acmee'\. Did you mean 'acme'\? There are auto, cpu"):
        open_named("acmee")


def test_the_entry_points_of_the_package_are_the_built_in_back_ends() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"][plugins.GROUP]
    assert set(declared) == {backend.name for backend in BACKENDS}
    for name, target in declared.items():
        point = EntryPoint(name=name, value=target, group=plugins.GROUP)
        backend = backends.find(name)
        assert backend is not None
        assert point.load() is backend.open_device
        assert target.startswith(plugins.OWN_PREFIX)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this host has an accelerator")
@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_a_missing_accelerator_is_told_with_what_it_needs(backend: Backend) -> None:
    with pytest.raises(ConfigError) as caught:
        open_named(backend.name)
    assert backend.install in str(caught.value)
    if backend.extension:
        assert f"{backend.extension} is not installed here" in str(caught.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this host has an accelerator")
def test_an_extension_that_cannot_be_imported_is_told_of_and_does_not_stop_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_mlu.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"torch_mlu, which is installed and cannot be imported"):
        open_named("mlu")
    assert open_device(DeviceRequest(), "a processor", 1).info.torch_device_type == "cpu"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this host has an accelerator")
def test_an_extension_that_torch_did_not_load_is_imported_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch_musa.py").write_text(
        "import torch\ntorch.accelerator.imported_by_a_test = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.accelerator, "imported_by_a_test", False, raising=False)
    with pytest.raises(ConfigError, match="sees no accelerator here"):
        open_named("musa")
    assert torch.accelerator.imported_by_a_test  # type: ignore[attr-defined]


def test_an_index_past_the_last_device_is_told_with_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "current_type", lambda: "cuda")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"there is 1 device of type 'cuda'; the first is 0"):
        open_named("cuda", 1)


def test_another_accelerator_is_not_taken_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "current_type", lambda: "cuda")
    with pytest.raises(ConfigError, match=r"'mps' was asked for, but the accelerator here is"):
        open_named("mps")


def test_a_type_that_only_torch_knows_is_opened_by_torchs_word_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[int] = []
    monkeypatch.setattr(backends, "current_type", lambda: "maia")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(open_module, "AcceleratorDevice", opened.append)
    open_named("maia", 1)
    open_named("auto", 0)
    assert opened == [1, 0]
