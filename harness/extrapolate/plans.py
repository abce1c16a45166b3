"""PlanTable: many parallel plans as columns of whole numbers, one row each."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.extrapolate.schedule import NAMES as SCHEDULES
from harness.projection import PlanChoice
from harness.workload.plan import CONTEXT_EXCHANGES

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

RECOMPUTES = ("none", "selective", "full")
"""What is computed again backward; a plan's code is the place in this list."""
CODED = {
    "recompute": RECOMPUTES,
    "schedule": SCHEDULES,
    "context_exchange": CONTEXT_EXCHANGES,
}
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
    context_exchange: Ints
    """Codes, places in `CONTEXT_EXCHANGES`."""
    virtual_stages: Ints
    microbatch_size: Ints
    num_microbatches: Ints
    zero_stage: Ints
    shard_group: Ints
    """Chips that share states by ZeRO; 0 is the whole data group."""
    recompute: Ints
    """Codes, places in RECOMPUTES."""
    schedule: Ints
    """Codes, places in `schedule.NAMES`."""
    layers_per_stage: tuple[int, ...] = ()
    """Of each stage along the model, the same for all plans; no column. Empty is as equal as
    possible."""

    @classmethod
    def of(cls, *plans: PlanChoice) -> "PlanTable":
        """The table of those plans."""
        found = {}
        for name in columns():
            values = [getattr(plan, name) for plan in plans]
            if name in CODED:
                values = [CODED[name].index(value) for value in values]
            found[name] = np.array(values, dtype=np.int64)
        (layers_per_stage,) = {plan.layers_per_stage for plan in plans} or {()}
        return cls(**found, layers_per_stage=layers_per_stage)

    def __len__(self) -> int:
        return len(self.tensor)

    def rows(self, which: slice | Ints | Bools) -> "PlanTable":
        """Those rows as a table."""
        return replace(self, **{name: getattr(self, name)[which] for name in columns()})

    def plan(self, row: int) -> PlanChoice:
        """One row."""
        values = {name: int(getattr(self, name)[row]) for name in columns()}
        recompute, schedule, exchange = (names[values.pop(name)] for name, names in CODED.items())
        return PlanChoice(
            **values,
            recompute=recompute,
            schedule=schedule,
            context_exchange=exchange,
            layers_per_stage=self.layers_per_stage,
        )

    def with_rows(self, others: "PlanTable") -> "PlanTable":
        """These rows, then the others."""
        both = {name: (getattr(self, name), getattr(others, name)) for name in columns()}
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in both.items()}
        return replace(self, **joined)

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


@cache
def columns() -> tuple[str, ...]:
    """The names of a table's columns."""
    return tuple(one.name for one in fields(PlanTable) if one.name != "layers_per_stage")
