"""The back-ends that are built in: what each needs, and who opens it.

All of them are entry points of `chipscale.devices` as well, for tools that list the group; here
they work from a bare checkout, where no package is installed.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch

from harness.device import accelerator
from harness.device.base import Device
from harness.device.vendor import ascend, cambricon, cuda, gaudi, intel, moore_threads
from harness.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A kind of accelerator, by torch's name for it."""

    name: str
    makers: str
    open_device: Callable[[int], Device]
    extension: str = ""
    """The module that teaches torch this type; empty where torch itself is built for it."""
    install: str
    """What is missing where torch does not know the type."""
    telemetry: str = ""
    """What has to be there for its state to be read; empty where nothing can be."""
    pci_vendors: tuple[str, ...] = ()
    """Its makers' numbers on the PCI bus. Source: https://pci-ids.ucw.cz/"""

    @property
    def is_installed(self) -> bool:
        """Its extension is there, or it needs none."""
        return not self.extension or _is_there(self.extension)


BACKENDS = (
    Backend(
        name="cuda",
        makers="NVIDIA; AMD, Hygon and MetaX through builds of torch of their own",
        open_device=cuda.open_device,
        install="a torch built for CUDA (pip install torch) or for ROCm "
        "(https://download.pytorch.org/whl/), and the driver; Hygon's DTK and MetaX's MACA bring "
        "their own torch",
        telemetry="nvidia-ml-py; on AMD the amdsmi of ROCm (/opt/rocm/share/amd_smi); on Hygon "
        "hy-smi, on MetaX mx-smi",
        pci_vendors=("10de", "1002", "1d94", "9999"),
    ),
    Backend(
        name="xpu",
        makers="Intel",
        open_device=intel.open_device,
        install="a torch built for Intel GPUs "
        "(pip install torch --index-url https://download.pytorch.org/whl/xpu), and the driver",
        telemetry="the kernel driver xe or i915",
        pci_vendors=("8086",),
    ),
    Backend(
        name="npu",
        makers="Huawei Ascend",
        open_device=ascend.open_device,
        extension="torch_npu",
        install="pip install torch-npu, of the version of this torch; driver and CANN",
        telemetry="npu-smi on PATH, which comes with the driver",
        pci_vendors=("19e5",),
    ),
    Backend(
        name="mlu",
        makers="Cambricon",
        open_device=cambricon.open_device,
        extension="torch_mlu",
        install="torch_mlu of Cambricon's SDK (https://developer.cambricon.com/), and the driver",
        telemetry="cnmon on PATH, which comes with the driver",
        pci_vendors=("cabc",),
    ),
    Backend(
        name="musa",
        makers="Moore Threads",
        open_device=moore_threads.open_device,
        extension="torch_musa",
        install="torch_musa (https://github.com/MooreThreads/torch_musa), MUSA and the driver",
        telemetry="mthreads-gmi on PATH, which comes with the driver",
        pci_vendors=("1ed5",),
    ),
    Backend(
        name="hpu",
        makers="Intel Gaudi",
        open_device=gaudi.open_device,
        extension="habana_frameworks",
        install="habana-torch-plugin of Intel Gaudi's software (https://docs.habana.ai/)",
        telemetry="hl-smi on PATH, and HABANA_VISIBLE_MODULES where there are several cards",
        pci_vendors=("1da3",),
    ),
    Backend(
        name="mps",
        makers="Apple",
        open_device=accelerator.open_device,
        install="torch for macOS on Apple silicon",
    ),
)
"""By their usefulness to `auto`, which takes the first that is there."""

IMPORTED = {"hpu": "habana_frameworks.torch"}
"""Modules to import where the package alone does nothing."""


def find(name: str) -> Backend | None:
    """The built-in back-end of that name, or None."""
    return next((backend for backend in BACKENDS if backend.name == name), None)


def load_extension(backend: Backend) -> None:
    """Teach torch the type, where an extension that is installed has not done so by itself.

    torch imports such packages when it is imported itself, unless they are older than that
    mechanism or TORCH_DEVICE_BACKEND_AUTOLOAD=0 forbids it.

    Raises:
        ConfigError: when the extension fails, as one built for another torch does.
    """
    if not backend.extension or not _is_there(backend.extension):
        return
    module = IMPORTED.get(backend.name, backend.extension)
    try:
        importlib.import_module(module)
    except Exception as error:  # Native libraries fail in ways of their own.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"device.name: '{backend.name}' needs {module}, which is installed and cannot be "
            f"imported with torch {torch.__version__}: {type(error).__name__}: "
            f"{lines[0] if lines else 'no message'}. Install {backend.install}."
        ) from error


def current_type() -> str | None:
    """The type of the accelerator that torch sees, or None."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
