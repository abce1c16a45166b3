"""What a supervised process does first: its output is for its supervisor, and it ends with it."""

import ctypes
import os
import signal
import sys
from typing import TextIO

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def claim_output() -> TextIO:
    """The pipe to the supervisor, with the ordinary output turned to the log.

    What a library or a kernel prints must not end up between two events.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def die_with_supervisor() -> None:
    """Have the system kill this process when the supervisor is gone, where it is Linux.

    A thread that waits for that cannot run while a hanging extension holds Python's lock.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
