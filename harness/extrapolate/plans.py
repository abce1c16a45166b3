"""PlanTable: many parallel plans as columns of whole numbers, one row each."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.extrapolate.schedule import NAMES as SCHEDULES
from harness.projection import PlanChoice

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

RECOMPUTES = ("none", "selective", "full")
"""What is computed again backward; a plan's code is the place in this list."""
CODED = {"recompute": RECOMPUTES, "schedule": SCHEDULES}
"""Columns of words, by their codes."""
CHUNK_ROWS = 8192
"""Rows evaluated at a time: the dozens of columns in between then stay in a core's cache. On an AMD
EPYC with 1 MiB of second-level cache the 102,888 plans of Llama-3.1 405B take 76 ms in chunks of
1024, 44 ms of 4096, 40 ms of 8192, 45 ms of 16384 and 60 ms of 65536."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTable:
    """Plans by column, each of shape (N,); the columns are those of PlanChoice."""

    tensor: Ints
    pipeline: Ints
    data: Ints
    expert: Ints
    context: Ints
    virtual_stages: Ints
    microbatch_size: Ints
    num_microbatches: Ints
    zero_stage: Ints
    recompute: Ints
    """Codes, places in RECOMPUTES."""
    schedule: Ints
    """Codes, places in `schedule.NAMES`."""

    @classmethod
    def of(cls, *plans: PlanChoice) -> "PlanTable":
        """The table of those plans."""
        columns = {}
        for column in fields(cls):
            values = [getattr(plan, column.name) for plan in plans]
            if column.name in CODED:
                values = [CODED[column.name].index(value) for value in values]
            columns[column.name] = np.array(values, dtype=np.int64)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.tensor)

    def rows(self, which: slice | Ints | Bools) -> "PlanTable":
        """Those rows as a table."""
        return PlanTable(
            **{column.name: getattr(self, column.name)[which] for column in fields(self)}
        )

    def plan(self, row: int) -> PlanChoice:
        """One row."""
        values = {column.name: int(getattr(self, column.name)[row]) for column in fields(self)}
        recompute, schedule = (names[values.pop(name)] for name, names in CODED.items())
        return PlanChoice(**values, recompute=recompute, schedule=schedule)

    def chunks(self, num_rows: int = CHUNK_ROWS) -> Iterator[slice]:
        """Consecutive rows, so many at a time."""
        for start in range(0, len(self), num_rows):
            yield slice(start, min(start + num_rows, len(self)))

    @property
    def num_chips(self) -> Ints:
        """Chips each plan occupies."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def sequences(self) -> Ints:
        """Sequences of one step of each plan."""
        return self.data * self.microbatch_size * self.num_microbatches
