"""Heartbeat: which case a child is at and that it moves, told without a word between two samples.

Four whole numbers in a file that both processes map into their memory. A message would cost a write
and a read for each turn; this costs half a microsecond, and the last beat is still there when the
child is not.
"""

import mmap
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.store.disk import storing

NO_CASE = -1

# Each is one aligned word that is stored at once, so that a reader finds the old or the new one and
# never a part of either. `struct.pack_into` would clear all of them before it writes.
_BEGUN, _CASE, _COUNT_OF_CASE, _COUNT = range(4)
"""Where each number is, in the order a beat writes them; `_BEGUN` and `_COUNT` are both the count,
and differ while a beat is being written."""
_NUM_BYTES = 4 * 8
_MAX_READS = 100
"""Some 50 us. A beat takes half a microsecond, and 4 of 10 looks are at a whole one even where the
writer does nothing but beat: one that is not whole after so many is one that its writer waits in
for a core, or was killed in."""


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
                if os.fstat(descriptor).st_size < _NUM_BYTES:
                    # Written, not only made longer: a mapped hole on a full disk is a bus error.
                    os.write(descriptor, bytes(_NUM_BYTES))
                self._memory = mmap.mmap(descriptor, _NUM_BYTES)
            finally:
                os.close(descriptor)
        self._words = memoryview(self._memory).cast("q")

    def beat(self, case: int) -> None:
        """Say that this case is in flight now."""
        words = self._words
        count = words[_COUNT] + 1
        self._counts[case] += 1
        words[_BEGUN] = count
        # One more than the index, so that a file of zeros names no case.
        words[_CASE] = case + 1
        words[_COUNT_OF_CASE] = self._counts[case]
        words[_COUNT] = count

    def read(self) -> Beat:
        """The latest beat that is whole.

        Where the writer is held up or was killed in the middle of one, the case is that of this
        beat or of the one before: the writer is between the two.
        """
        words = self._words
        for _ in range(_MAX_READS):
            count = words[_COUNT]
            beat = Beat(words[_CASE] - 1, count, words[_COUNT_OF_CASE])
            # Read last, as it is written first: what came between is of this count alone.
            if words[_BEGUN] == count:
                break
        return beat

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()
        self._memory.close()
