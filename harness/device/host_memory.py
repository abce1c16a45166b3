"""Memory of the host: what may be allocated without something being killed, and giving it back."""

import contextlib
import ctypes
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_LIMITS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Where a container's limit is, what it uses, and what of that is given back when it is needed, in
versions 2 and 1 of control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html."""


def available_memory_bytes() -> int | None:
    """What the kernel would give without swapping, within the limit of this container."""
    found = [value for value in (_of_host(), *_of_container()) if value is not None]
    return min(found, default=None)


def release_to_system() -> None:
    """Have the C library give its free memory back, where it is glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Source: malloc.h of glibc; mallopt(3)."""


def keep_from_system() -> None:
    """Have the C library keep what is freed, as the allocators of accelerators do.

    What a worker's environment says from its start (`harness/worker/process.py`), for a process
    that was started by others.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _of_host() -> int | None:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 2**10
    return None


def _of_container() -> list[int]:
    """What is left of each limit that there is."""
    left = []
    for folder, limit_name, used_name, reclaimable in _LIMITS:
        files = [folder / name for name in (limit_name, used_name, "memory.stat")]
        if not all(file.exists() for file in files):
            continue
        limit, used, statistics = (file.read_text(encoding="ascii") for file in files)
        # Without a limit version 2 says `max`, and version 1 a number near 2^63.
        if limit.strip().isdigit() and int(limit) < 2**60:
            cached = [
                int(line.split()[1])
                for line in statistics.splitlines()
                if line.split()[0] == reclaimable
            ]
            left.append(int(limit) - int(used) + sum(cached))
    return left
