"""Which runs of the past belong together: one suite and model, one machine, one branch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from harness.errors import ConfigError, NothingMeasured, RecordError, did_you_mean
from harness.trend import HistoryRun

MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """What of the past is asked for; an empty value asks for what the newest run has."""

    suite: str = ""
    model: str = ""
    chip: str = ""
    branch: str = ""
    """`any` takes all branches together."""
    fingerprint: str = ""
    last: int = 0
    """As many of the newest runs; 0 is all."""


def query_of(words: Sequence[str], where: str = "") -> HistoryQuery:
    """`suite=quick chip=h200_sxm branch=main last=50` as a query.

    Args:
        words: Each KEY=VALUE.
        where: What to name before a word that is wrong.

    Raises:
        ConfigError: for a key that there is not, or a number that is none.
    """
    keys = [field.name for field in fields(HistoryQuery)]
    values: dict[str, str | int] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in keys:
            raise ConfigError(
                f"{where}{word}: no such key of a history. {did_you_mean(key, keys)}"
                f"KEY=VALUE with {', '.join(keys)} is allowed."
            )
        if key == "last" and not (value.isdigit() and int(value) > 0):
            raise ConfigError(f"{where}{word}: a number of runs from 1 on is allowed.")
        values[key] = int(value) if key == "last" else value
    return HistoryQuery(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRuns:
    """The runs that answer a query."""

    runs: tuple[HistoryRun, ...]
    """Oldest first, never empty."""
    num_other_runs: int
    """Of the same suite and chip, on other branches or machines."""


def choose_runs(runs: Sequence[HistoryRun], query: HistoryQuery) -> ChosenRuns:
    """The runs of one suite, model, chip, branch and machine.

    What the query leaves open is that of the newest run that fits the rest, so that no two
    machines are ever joined into one series.

    Raises:
        NothingMeasured: when there is no run at all.
        RecordError: when no run has a value that is asked for, with those that are there.
    """
    if not runs:
        raise NothingMeasured(
            "the history is empty: no run has a time yet. `chipscale run` makes the first."
        )
    found = sorted(runs, key=lambda run: (run.started_at, run.run_id))
    of_suite_and_chip = found
    for key in ("suite", "model", "chip", "branch", "fingerprint"):
        wanted = getattr(query, key)
        if key == "branch":
            of_suite_and_chip = found
            if wanted == "any":
                continue
        found = _with(found, key, wanted or getattr(found[-1], key))
    kept = found[-query.last :] if query.last else found
    return ChosenRuns(runs=tuple(kept), num_other_runs=len(of_suite_and_chip) - len(found))


def _with(runs: Sequence[HistoryRun], key: str, wanted: str) -> list[HistoryRun]:
    found = [run for run in runs if getattr(run, key) == wanted]
    if not found:
        there = sorted({getattr(run, key) or "none" for run in runs})
        shown = ", ".join(there[:MAX_NAMED]) + (" ..." if len(there) > MAX_NAMED else "")
        raise RecordError(
            f"{key}={wanted}: no run of the history has it. {did_you_mean(wanted, there)}"
            f"There are: {shown}."
        )
    return found
