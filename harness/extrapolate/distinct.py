"""Rows that are alike in some columns, so that what depends on these alone is computed once."""

from dataclasses import dataclass

import numpy as np

from harness.extrapolate.plans import Ints


@dataclass(frozen=True, slots=True)
class Alike:
    """Groups of rows that are equal in some columns."""

    first: Ints
    """A row of each group, shape (G,)."""
    group: Ints
    """The group of each row, shape (N,)."""


def runs(*columns: Ints) -> Alike:
    """Rows that follow each other and are equal; equal rows further apart are groups of their own.

    Takes one pass, where finding all equal rows takes a sort.
    """
    starts = np.zeros(len(columns[0]), dtype=np.bool_)
    starts[:1] = True
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return Alike(np.flatnonzero(starts), np.cumsum(starts) - 1)


def distinct(*columns: Ints) -> Alike:
    """All equal rows, by a sort of their runs; columns hold no negative numbers."""
    found = runs(*columns)
    key = np.zeros(len(found.first), dtype=np.int64)
    for column in columns:
        values = column[found.first]
        least = int(values.min()) if len(values) else 0
        key = key * (int(values.max(initial=least)) - least + 1) + values - least
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return Alike(found.first[first], group[found.group])
