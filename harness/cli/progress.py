"""Progress of runs: a live bar each on a terminal, one plain line a case elsewhere."""

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.cases import Case
from harness.environment import Environment
from harness.record import Record, Status
from harness.stats import summarize
from harness.units import duration
from harness.worker.events import Stage
from harness.worker.supervisor import Watcher


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]measuring{task.fields[label]}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[statuses]}", markup=False),
        TextColumn("{task.fields[doing]}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class RunProgress(Watcher):
    """Shows which case is at which stage, and how many have ended how."""

    def __init__(
        self,
        console: Console,
        num_cases: int,
        num_done: int = 0,
        label: str = "",
        bars: Progress | None = None,
    ) -> None:
        """With a label it is one of several, whose bars are begun and ended by `FleetProgress`."""
        self._console = console
        self._statuses: Counter[Status] = Counter()
        self._case = ""
        self._label = f"{label}: " if label else ""
        self._progress = _bar(console) if bars is None else bars
        self._task = self._progress.add_task(
            "",
            total=num_cases,
            completed=num_done,
            label=f" {label}" if label else "",
            statuses="",
            doing="starting the worker",
        )
        self._num_cases = num_cases
        self._num_done = num_done

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        if not self._console.is_terminal:
            self._console.print(f"measuring {self._num_cases - self._num_done} cases")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away; what was measured is told by the table."""
        self._progress.stop()

    def on_notice(self, sentence: str) -> None:
        """Say it once, above the bar."""
        self._console.print(f"warning: {sentence}", style="yellow", markup=False, soft_wrap=True)

    def on_environment(self, environment: Environment) -> None:
        """Say what is being measured."""
        info = environment.device
        versions = ", ".join(f"{name} {environment.version(name)}" for name in ("torch", "triton"))
        self._console.print(
            f"{self._label}device: {info.name} ({info.torch_device_type}), {versions}",
            highlight=False,
            markup=False,
        )
        for warning in environment.warnings:
            self._console.print(f"{self._label}warning: {warning}", style="yellow", markup=False)

    def on_start(self, case: Case) -> None:
        """Show the case."""
        self._case = f"{case.problem.title} {case.impl}"
        self._progress.update(self._task, doing=self._case)

    def on_stage(self, stage: Stage) -> None:
        """Show how far it is."""
        self._progress.update(self._task, doing=f"{self._case}: {stage}")

    def on_record(self, record: Record) -> None:
        """Count the case, and print it where there is no bar."""
        self._statuses[record.status] += 1
        self._num_done += 1
        shown = ", ".join(
            f"{self._statuses[status]} {status}" for status in Status if self._statuses[status]
        )
        self._progress.update(self._task, advance=1, statuses=shown)
        if not self._console.is_terminal:
            what = str(record.status)
            if record.measurement is not None:
                what = duration(summarize(record.measurement.steady_samples_s).median)
            self._console.print(
                f"{self._label}[{self._num_done}/{self._num_cases}] {record.case.id}: {what}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


class FleetProgress:
    """A bar, or lines, for each of several devices that are measured at once."""

    def __init__(self, console: Console, labels: Sequence[str], num_cases: int) -> None:
        self._bars = _bar(console)
        self.watchers = tuple(
            RunProgress(console, num_cases, label=label, bars=self._bars) for label in labels
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self._bars.stop()
