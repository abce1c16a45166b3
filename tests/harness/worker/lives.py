"""Lives of supervisors that `warm.py` starts, to be watched, killed and counted."""

import os
import signal
import subprocess
import time
from pathlib import Path


def children_of(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    # One that has ended and is waited for is none.
    return [int(child) for child in found.split() if is_alive(int(child))]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class Life:
    """One supervisor, from its start until it ends or is killed."""

    def __init__(self, warm: "subprocess.Popen[str]", job_file: Path, out: Path) -> None:
        assert warm.stdin is not None
        assert warm.stdout is not None
        warm.stdin.write(f"{job_file} {out}\n")
        warm.stdin.flush()
        self._answers = warm.stdout
        self.supervisor = int(self._answers.readline())
        self.children: set[int] = set()

    def kill(self, *, child: bool, supervisor: bool) -> int:
        """How many of them were there to be killed."""
        found = children_of(self.supervisor)
        self.children.update(found)
        pids = [*(found if child else ()), *([self.supervisor] if supervisor else ())]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    def end(self) -> int:
        """Wait for its end; the exit code, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(int(self._answers.readline()))

    def assert_nothing_is_left(self) -> None:
        deadline_s = time.monotonic() + 20
        while any(map(is_alive, self.children)) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not [pid for pid in self.children if is_alive(pid)]
