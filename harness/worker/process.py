"""A measuring child as a process: started, spoken to, listened to, and ended for certain."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from harness.codec import from_json
from harness.errors import DeviceBusyError, RecordError
from harness.worker.events import Event

POLL_S = 0.2
STOP_TIMEOUT_S = 60.0
"""A killed process ends within milliseconds, unless a driver holds it; that may take its time."""
EXIT_TIMEOUT_S = 30.0
"""Tearing down a device's context takes seconds, of a broken one more."""

KEEP_HOST_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Makes glibc keep freed memory, as the allocators of accelerators do. Otherwise each large output
on a CPU is fetched from the system page by page: a copy of 128 MiB ran at 4 GB/s, of 4 MiB at 20.
A device's `release_memory` gives it back between cases.

Source: mallopt(3).
"""


def start(job_file: Path, heartbeat_file: Path, log: TextIO) -> "subprocess.Popen[str]":
    """A child that opens its device and then waits for the cases it is to measure."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.worker.child", str(job_file), str(heartbeat_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=child_environment(),
        # Its own session: Ctrl-C reaches the supervisor alone, which then stops the child.
        start_new_session=True,
    )


def child_environment() -> dict[str, str]:
    """This environment, with the package importable however the parent found it."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **KEEP_HOST_MEMORY,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        # A segmentation fault leaves the lines of Python it happened in.
        "PYTHONFAULTHANDLER": "1",
    }


def send(child: "subprocess.Popen[str]", text: str) -> None:
    """Write to the child; one that has ended is told of by its events."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(text)
        child.stdin.flush()


def events(child: "subprocess.Popen[str]") -> Iterator[Event | None]:
    """The child's events as they come, and None whenever a moment passes without one.

    Ends with the child, and before it at a line that is no event.
    """
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        # Closed here and nowhere else: closing it waits for whoever reads, and a process that does
        # not end, or one that it has left behind, may let the reader wait for ever.
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            if child.poll() is not None:
                # What it had started may hold the pipe open, which would otherwise never end.
                kill(child)
            yield None
            continue
        if line is None or not line.endswith("\n"):
            return
        try:
            event = from_json(Event, line, "worker event")
        except RecordError:
            return
        yield event


def ended(child: "subprocess.Popen[str]") -> int | None:
    """The exit code of a child whose events are over; None when it goes on without a word."""
    try:
        return child.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def stop(child: "subprocess.Popen[str]") -> None:
    """End the child and whatever it has started; nothing happens to one that has ended.

    Raises:
        DeviceBusyError: when it does not end.
    """
    kill(child)
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DeviceBusyError(
            f"The worker (process {child.pid}) was killed {STOP_TIMEOUT_S:g} s ago and has not "
            "ended: a driver holds it, and with it the device. Restart the host or the driver, "
            "then go on with the run."
        ) from None


def kill(child: "subprocess.Popen[str]") -> None:
    """Kill the child and whatever it has started, without waiting for its end."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def cause_of_death(exit_code: int | None) -> str:
    """`was ended by SIGSEGV`, `ended with exit code 3`; None is one that `ended` gave up on."""
    if exit_code is None:
        return "said no more and was stopped"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", often sent by the host when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
