"""One fresh process of an arm that measures a whole suite: `python -m harness.worker`."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.arms.plan import Plan
from harness.arms.tree import ArmTree
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    ChipscaleError,
    ConfigError,
    DeviceBusyError,
    StorageError,
)
from harness.record import Record
from harness.store.folder import RunFolder

STOP_TIMEOUT_S = 70.0
"""The worker ends its own child first, which takes up to a minute where a driver holds it."""
_CASE_LINE = re.compile(r"^\[\d+/\d+\] (?P<case>\S+): ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a process left."""

    folder: RunFolder
    records: tuple[Record, ...]
    failure: str = ""
    """Why it ended before its end, in words; empty for one that went through its cases."""


def measure_once(
    arm: ArmTree,
    plan: Plan,
    out: Path,
    log: Path,
    lock_folder: Path,
    on_case: Callable[[str], None],
) -> Measured:
    """Measure the plan in a fresh process into the folder `out`.

    Args:
        arm: whose code it runs.
        plan: its cases.
        out: a new folder.
        log: a file for all that it prints.
        lock_folder: as `ArmTree.environment`.
        on_case: is told the id of every case that is over.

    Raises:
        ConfigError: when it refuses its input, as a device that is not there.
        DeviceBusyError: when the device is not to be had.
        StorageError: when the disk takes no more.
        KeyboardInterrupt: by Ctrl-C, once it has ended; its records are kept.
    """
    with log.open("a", encoding="utf-8") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.worker", str(plan.path), str(out)],
            cwd=arm.root,
            env=arm.environment(lock_folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C reaches the gate alone, which passes it on once.
            start_new_session=True,
        )
        last = ""
        try:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(line)
                file.flush()
                last = line.strip() or last
                told = _CASE_LINE.match(line)
                if told is not None:
                    on_case(told["case"])
            code = child.wait()
        finally:
            _end(child)
            if child.stdout is not None:
                child.stdout.close()
    said = last.removeprefix("chipscale: ")
    _raise_for(code, f"{arm.name}: {said}")
    folder = RunFolder(out)
    records = folder.records() if (out / "run.json").exists() else ()
    if code in (0, CASE_FAILED_EXIT_CODE):
        return Measured(folder=folder, records=records)
    return Measured(
        folder=folder, records=records, failure=f"its process ended with exit code {code}: {said}"
    )


def _raise_for(code: int, said: str) -> None:
    """Raise what measuring again would raise again."""
    for kind in (DeviceBusyError, StorageError):
        if code == kind.exit_code:
            raise kind(said)
    if code == ChipscaleError.exit_code:
        raise ConfigError(said)


def _end(child: "subprocess.Popen[str]") -> None:
    """End a process that is still there: it stops its own child, keeps its records, and goes."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGINT)
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
