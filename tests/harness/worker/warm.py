"""Starts supervisors and their children in milliseconds: `python -m tests.harness.worker.warm`.

A start is two imports of torch, 3 s of a core together, and a test that kills a run 50 times would
take minutes for them alone. This process imports once and forks: the supervisor and the child are
processes of their own all the same, with the real code, pipes, files and signals.

Each line on the input, `JOB OUT`, is one life of `python -m harness.worker JOB OUT`; the answers
are its process id and, once it has ended, its exit status as `os.waitpid` gives it.
"""

import os
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TextIO

from harness.worker import child, process
from harness.worker.__main__ import main
from kernels import registry

MAX_DESCRIPTORS = 256
OPS = ("copy", "scale", "rms_norm", "swiglu")
"""What the lives measure; each op's file takes a while to import."""


class Forked:
    """What the supervisor uses of `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: TextIO, stdout: TextIO) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self._returncode: int | None = None

    def poll(self) -> int | None:
        if self._returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def wait(self, timeout: float) -> int:
        until_s = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until_s:
                raise subprocess.TimeoutExpired("child", timeout)
            time.sleep(0.001)
        assert self._returncode is not None
        return self._returncode


def start(job_file: Path, heartbeat_file: Path, log: TextIO) -> Forked:
    """As `harness.worker.process.start`."""
    child_input, to_child = os.pipe()
    from_child, child_output = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        run_forked(
            lambda: child.main(str(job_file), str(heartbeat_file)),
            (child_input, child_output, log.fileno()),
        )
    os.close(child_input)
    os.close(child_output)
    return Forked(pid, os.fdopen(to_child, "w"), os.fdopen(from_child))


def run_forked(work, descriptors: tuple[int, int, int]) -> None:
    """The rest of a process that was forked; nothing of its parent's files is left to it."""
    exit_code = 1
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, MAX_DESCRIPTORS)
        # Not closed with their objects, which a second fork replaces.
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        exit_code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


if __name__ == "__main__":
    process.start = start
    for op in OPS:
        registry.load(op)
    nothing = os.open(os.devnull, os.O_RDWR)
    for line in sys.stdin:
        arguments = line.split()
        supervisor = os.fork()
        if supervisor == 0:
            run_forked(lambda given=arguments: main(given), (nothing, nothing, 2))
        print(supervisor, flush=True)
        print(os.waitpid(supervisor, 0)[1], flush=True)
