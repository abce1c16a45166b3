"""The closures of a run, found in its records and kept in its folder."""

from harness.closure import Closure, Closures, closures_of
from harness.results import accepted
from harness.store.folder import CLOSURE, RunFolder


def keep_closures(folder: RunFolder) -> tuple[Closure, ...]:
    """Hold the run's layers against their ops and write that down; nothing where it has none."""
    closures = closures_of(accepted(folder.records(), folder.roofs))
    if closures:
        folder.write(CLOSURE, Closures(closures=closures))
    return closures
