"""What is seen of a gate while it measures: which round, which side, which case."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from harness.arms.turns import GateWatcher
from harness.units import duration


class GateProgress(GateWatcher):
    """A line that changes on a terminal; one line a process in a log."""

    def __init__(self, console: Console, num_rounds: int) -> None:
        self._console = console
        self._num_rounds = num_rounds
        self._status: Status | None = None
        self._what = ""
        self._num_cases = 0
        self._num_done = 0
        self._began_s = 0.0
        self._suite = 0

    def on_suite(self, number: int) -> None:
        """A calibration begins its next A/A gate."""
        self._suite = number

    def __enter__(self) -> "GateProgress":
        if self._console.is_terminal:
            self._status = self._console.status("opening the arms ...")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def on_notice(self, sentence: str) -> None:
        """Say it where it is seen beside the errors."""
        if self._status is None:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)
        else:
            self._console.print(f"warning: {sentence}", style="yellow", markup=False)

    def on_turn(self, side: str, round_number: int, num_cases: int) -> None:
        """Say whose turn it is."""
        number = (round_number - 1) % self._num_rounds + 1
        is_fresh = not self._suite and round_number > self._num_rounds
        kind = f"A/A gate {self._suite}, round" if self._suite else "round"
        kind = f"fresh {kind}" if is_fresh else kind
        self._what = f"{kind} {number} of {self._num_rounds}, {side}"
        self._num_cases, self._num_done = num_cases, 0
        self._began_s = time.monotonic()
        self._show()

    def on_case(self, case_id: str) -> None:
        """Count it; a process that is over is told of in a log."""
        del case_id
        self._num_done += 1
        self._show()
        if self._status is None and self._num_done == self._num_cases:
            took = duration(time.monotonic() - self._began_s)
            self._console.print(
                f"{self._what}: {self._num_cases} cases in {took}", markup=False, soft_wrap=True
            )

    def _show(self) -> None:
        if self._status is not None:
            self._status.update(f"{self._what}: {self._num_done} of {self._num_cases} cases")
