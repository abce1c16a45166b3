"""Heartbeat: which case a child is at and that it moves, told without a word between two samples.

A few bytes of a file that both processes map into their memory. A message would cost a write and a
read for each turn; this costs one or two microseconds, and the last beat is still there when the
child is not.
"""

import mmap
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.store.disk import storing

_FORMAT = struct.Struct("<qqq")
NO_CASE = -1


@dataclass(frozen=True, slots=True)
class Beat:
    """What the file says."""

    case: int = NO_CASE
    """Index in the job of the case in flight, or NO_CASE."""
    count: int = 0
    """Grows with every sign of life."""
    count_of_case: int = 0
    """How many of them came from this case."""


class Heartbeat:
    """The file, open for both: the child beats and the supervisor reads."""

    def __init__(self, path: Path) -> None:
        self._counts: Counter[int] = Counter()
        with storing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size < _FORMAT.size:
                    # Written, not only made longer: a mapped hole on a full disk is a bus error.
                    os.write(descriptor, _FORMAT.pack(NO_CASE, 0, 0))
                self._memory = mmap.mmap(descriptor, _FORMAT.size)
            finally:
                os.close(descriptor)

    def beat(self, case: int) -> None:
        """Say that this case is in flight now."""
        _, count, _ = _FORMAT.unpack_from(self._memory)
        self._counts[case] += 1
        _FORMAT.pack_into(self._memory, 0, case, count + 1, self._counts[case])

    def read(self) -> Beat:
        """The latest beat; one that is being written may still show the case before."""
        return Beat(*_FORMAT.unpack_from(self._memory))

    def close(self) -> None:
        """Let go of the file."""
        self._memory.close()
