"""What ran: host, versions, commit, device; read once per worker and kept beside the records."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.device.base import DeviceInfo, DeviceState
from harness.device.processes import busy

PACKAGES = ("torch", "triton", "numpy")
"""The distributions whose versions can move a measurement."""
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
    "MLU_VISIBLE_DEVICES",
    "MUSA_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TRITON_INTERPRET",
    "SLURM_JOB_ID",
)
"""Environment variables that can move a measurement; no others are read or kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a run's numbers come from."""

    device: DeviceInfo
    host: str
    operating_system: str
    processor: str
    num_cores: int
    """Cores that the process may use."""
    python: str
    versions: tuple[tuple[str, str], ...]
    commit: str
    """Of the checkout the code ran from; empty outside one."""
    has_local_changes: bool
    branch: str
    variables: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()
    """What a reader of the numbers should know, one sentence each."""

    def version(self, package: str) -> str:
        """That package's version, or `none`."""
        return dict(self.versions).get(package, "none")


def _git(*arguments: str) -> str:
    """What git prints, or an empty string outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def processor_name() -> str:
    """The processor's model as the operating system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def num_usable_cores() -> int:
    """Cores this process may run on, which affinity may make fewer than the host has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


MAX_NAMED = 5
"""Programs that a warning names; the busiest come first."""


def _warnings(device: DeviceInfo, state: DeviceState | None, cores: int) -> tuple[str, ...]:
    """What other work there is before ours begins: on the device, and on the host."""
    # A virtual clock knows nothing of other work.
    if device.torch_device_type == "fake":
        return ()
    found = []
    holders = state.foreign_processes if state is not None else ()
    if holders:
        found.append(
            f"The device was held by {named(holders)} before measuring; "
            "their work may show in the samples."
        )
    programs, load = busy(), os.getloadavg()[0]
    if programs:
        found.append(
            f"Other programs were busy before measuring, in shares of one core: "
            f"{named(programs)}; the load was {load:.1f} on {cores} cores. "
            "Their work may show in the samples."
        )
    elif load > 0.5 * cores:
        found.append(
            f"The host's load was {load:.1f} on {cores} cores before measuring; "
            "other work may show in the samples."
        )
    return tuple(found)


def named(programs: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    more = len(programs) - MAX_NAMED
    return ", ".join(programs[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def read_environment(device: DeviceInfo, state: DeviceState | None = None) -> Environment:
    """The environment of this process, measuring that device, which is in that state."""
    cores = num_usable_cores()
    return Environment(
        device=device,
        host=socket.gethostname(),
        operating_system=platform.platform(),
        processor=processor_name(),
        num_cores=cores,
        python=sys.version.split()[0],
        versions=(
            *((package, _version(package)) for package in PACKAGES),
            ("chipscale", __version__),
        ),
        commit=_git("rev-parse", "HEAD"),
        has_local_changes=bool(_git("status", "--porcelain", "--untracked-files=no")),
        branch=_git("rev-parse", "--abbrev-ref", "HEAD"),
        variables=tuple((name, os.environ[name]) for name in VARIABLES if name in os.environ),
        warnings=_warnings(device, state, cores),
    )
