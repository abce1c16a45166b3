"""The stages of many pipelines by kind, as arrays: what each kind holds and how often it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.extrapolate.distinct import distinct
from harness.extrapolate.pipeline import PLAIN, StageKind, stage_kinds
from harness.extrapolate.plans import Bools, Floats, Ints, PlanTable
from harness.extrapolate.schedule import NAMES, schedule_code
from harness.workload.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StageColumns:
    """One kind of stage of each of N plans; every column has shape (N,)."""

    position: Floats
    """The first stage of the kind, counted from 0: of its kind it holds most microbatches."""
    count: Floats
    num_dense: Floats
    num_moe: Floats
    is_first: Floats
    """1 where it has the embedding, else 0."""
    is_last: Floats
    """1 where it has the output head, else 0."""
    microbatch_share: Floats
    """Each of its layers works on this share of the microbatches."""

    @property
    def num_layers(self) -> Floats:
        """Layers of either sort."""
        return self.num_dense + self.num_moe


COLUMNS = tuple(StageColumns.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class StageTable:
    """The stages of the plans of a table.

    Pipelines with fewer kinds than others have their first kind again, with a count of 0, which
    changes neither a sum over the stages nor the largest of them.
    """

    layouts: Floats
    """By kind, column and layout; shape (K, 7, L)."""
    layout: Ints
    """The layout of each plan, shape (N,)."""

    @classmethod
    def of(cls, model: ModelSpec, plans: PlanTable) -> "StageTable":
        """The stages of those plans of the model."""
        # Chunks in turn matter only where the leading layers are unlike the others.
        is_mixed = bool(model.num_moe_layers and model.num_dense_layers)
        matters = (plans.schedule != schedule_code(PLAIN)) | is_mixed | bool(plans.layers_per_stage)
        chunks = np.where(matters, plans.virtual_stages, 1)
        columns = (plans.pipeline, chunks, plans.schedule)
        alike = distinct(*columns)
        found = [
            stage_kinds(
                model.num_layers,
                model.num_dense_layers,
                int(p),
                int(v),
                NAMES[int(schedule)],
                plans.layers_per_stage,
            )
            for p, v, schedule in zip(*(column[alike.first] for column in columns), strict=True)
        ]
        num_kinds = max((len(kinds) for kinds in found), default=0)
        layouts = np.array([_padded(kinds, num_kinds) for kinds in found], dtype=np.float64)
        return cls(np.ascontiguousarray(layouts.transpose(1, 2, 0)), alike.group)

    def rows(self, which: slice | Ints | Bools) -> "StageTable":
        """The same stages, of those plans alone."""
        return StageTable(self.layouts, self.layout[which])

    def kinds(self) -> Iterator[StageColumns]:
        """Each kind of stage of the plans, in the order of the pipeline but for repeats."""
        for kind in self.layouts:
            columns = (column.take(self.layout) for column in kind)
            yield StageColumns(**dict(zip(COLUMNS, columns, strict=True)))


def _padded(kinds: tuple[StageKind, ...], num_kinds: int) -> list[list[float]]:
    rows = [[float(getattr(kind, name)) for name in COLUMNS] for kind in kinds]
    again = list(rows[0])
    again[COLUMNS.index("count")] = 0.0
    return rows + [again] * (num_kinds - len(rows))
