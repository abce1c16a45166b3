"""Runs against one another: cases, groups of ops, and the difference of a step taken apart.

records.py      every case two runs have in common, refused where the work was not equal
groups.py       ops by type, mode and phase, each chip by its fastest implementation
attribution.py  the difference of one op as causes that add up (pure)
waterfall.py    the difference of a step: all of its ops, and the projection around them
build.py        all of it, for any number of runs
"""

from harness.compare.build import LABELS, RunInput, compare_runs
from harness.compare.records import (
    MAX_DIFFERENCES,
    TOLERANCE,
    ComparedRuns,
    compare_records,
    verdict,
)
from harness.comparison import CaseComparison, Verdict

__all__ = [
    "LABELS",
    "MAX_DIFFERENCES",
    "TOLERANCE",
    "CaseComparison",
    "ComparedRuns",
    "RunInput",
    "Verdict",
    "compare_records",
    "compare_runs",
    "verdict",
]
