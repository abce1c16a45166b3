"""Other programs: those that hold the device, and those that keep the host's cores busy."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

BUSY_SHARE = 0.2
"""Of one core: less is an editor or a monitor, which every host has."""
BUSY_INTERVAL_S = 0.25
"""Between two readings of all processes: 25 ticks of the kernel's clock, so that the share of a
core is known to 4 %, and a quarter of a second at each start of a worker."""
LOOK_EVERY_S = 1.0
"""Asking a driver for its processes takes milliseconds where there are many; a turn takes 20."""
MAX_ANCESTORS = 64
"""Deeper than any tree of processes, so that a loop in /proc ends."""

_PROC = Path("/proc")


def foreign(
    found: Iterable[int],
    names: Mapping[int, str] | None = None,
    proc: Path = _PROC,
    own_pid: int | None = None,
) -> tuple[str, ...]:
    """Those of the processes on our device that are not ours, as `python (4711)`, in order.

    Ours are this process, those it came from and those that came from it. In a container a driver
    may count processes as the host does, where our own number is another: when ours is not among
    those found, one of them is still ours, and how many others there are is all that can be told.

    Args:
        found: process numbers, as the driver tells.
        names: what the driver calls them; the kernel is asked for the others.
        proc: the kernel's table of processes.
        own_pid: of this process.
    """
    own = os.getpid() if own_pid is None else own_pid
    pids = sorted(set(found))
    if own not in pids:
        others = len(pids) - 1
        return (f"{others} of another container",) if others > 0 else ()
    family = {own, *_ancestors(own, proc)}
    return tuple(
        f"{_name(pid, names or {}, proc)} ({pid})"
        for pid in pids
        if pid not in family and own not in _ancestors(pid, proc)
    )


class Occupants:
    """The foreign processes of a device, looked for at most every `LOOK_EVERY_S`."""

    def __init__(
        self,
        find: Callable[[], Mapping[int, str]],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._now_s = now_s
        self._looked_s: float | None = None
        self._latest: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        """Those seen at the latest look; none where they cannot be told."""
        now_s = self._now_s()
        if self._looked_s is None or now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            try:
                found = self._find()
                self._latest = foreign(found, found)
            except Exception:  # A driver that cannot tell must not stop a measurement.
                self._latest = ()
        return self._latest


def busy(
    interval_s: float = BUSY_INTERVAL_S,
    proc: Path = _PROC,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, ...]:
    """Programs not ours that use more than `BUSY_SHARE` of a core, the busiest first.

    As `python (4711) 98 %`, of one core. Empty where the kernel has no such table.
    """
    if not (proc / "self").exists():
        return ()
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    own = os.getpid()
    before, began_s = _ticks(proc), time.monotonic()
    sleep(interval_s)
    after, seconds = _ticks(proc), max(time.monotonic() - began_s, interval_s)
    family = {own, *_ancestors(own, proc)}
    found = []
    for pid, ticks in after.items():
        share = (ticks - before.get(pid, ticks)) / ticks_per_s / seconds
        if share > BUSY_SHARE and pid not in family and own not in _ancestors(pid, proc):
            found.append((share, f"{_name(pid, {}, proc)} ({pid}) {100 * share:.0f} %"))
    return tuple(text for _, text in sorted(found, reverse=True))


def _fields(pid: int, proc: Path) -> list[str]:
    """The fields behind the name in /proc/<pid>/stat; a name may hold spaces and brackets.

    Source: proc_pid_stat(5).
    """
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []  # It has ended, or is not of this container.
    return text.rpartition(")")[2].split()


def _ancestors(pid: int, proc: Path) -> set[int]:
    found: set[int] = set()
    while len(found) < MAX_ANCESTORS:
        fields = _fields(pid, proc)
        if len(fields) < 2 or not fields[1].isdigit():
            break
        pid = int(fields[1])
        if pid <= 0 or pid in found:
            break
        found.add(pid)
    return found


def _ticks(proc: Path) -> dict[int, int]:
    """Ticks of processor time that each process has used so far: its own, user and system."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            fields = _fields(int(entry.name), proc)
            if len(fields) > 12:
                found[int(entry.name)] = int(fields[11]) + int(fields[12])
    return found


def _name(pid: int, names: Mapping[int, str], proc: Path) -> str:
    told = names.get(pid, "")
    if told:
        return Path(told).name
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "process"
