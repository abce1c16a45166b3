"""`chipscale sync --watch`: follow folders, and sync what is new or has grown until Ctrl-C."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console

from harness.cli.finish import vendors_of
from harness.cli.sync_folders import at_home, make_ready, meant_folders
from harness.errors import ChipscaleError, ConfigError, RecordError
from harness.store.folder import ENVIRONMENT, RUN, RunFolder
from harness.store.mlflow import SyncResult, SyncState, TrackingTarget, sync
from harness.store.mlflow.ledger import folder_state, open_ledger
from harness.store.mlflow.probe import unreachable

GROWING_S = 60.0
"""A run that grows is synced this often at most: each time takes some seconds of a processor,
perhaps of the host that measures."""
MAX_WAIT_S = 300.0
"""Between two tries of what failed; each wait is twice the one before."""
BUDGET_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What is known of one folder since it was last tried."""

    state: str
    next_try_s: float
    num_failures: int = 0
    message: str = ""


class Watcher:
    """Goes over the folders again and again; what it says is one line an event."""

    def __init__(
        self,
        roots: Sequence[Path],
        results_dir: Path,
        config_dirs: Sequence[Path],
        interval_s: float,
        target: TrackingTarget,
        console: Console,
    ) -> None:
        self._roots = roots
        self._results_dir = results_dir
        self._config_dirs = config_dirs
        self._interval_s = interval_s
        self._target = target
        self._console = console
        self._followed: dict[Path, Followed] = {}
        self._vendors = vendors_of(config_dirs)
        self._num_outages = 0
        self._ledger = open_ledger(target)
        """What earlier syncs have seen to; only asked of folders that are new to this one."""

    def look(self) -> float:
        """One time over all folders; returns after how many seconds to look again."""
        due = self._due()
        if not due:
            return self._interval_s
        why = unreachable(self._target)
        if why:
            if not self._num_outages:
                self.say(f"{why}; {len(due)} folder(s) wait for it.")
            self._num_outages += 1
            return self._wait_s(self._num_outages)
        if self._num_outages:
            self.say(f"MLflow at {self._target.shown} is there again.")
            self._num_outages = 0
        self._sync(due)
        return self._interval_s

    def _due(self) -> dict[Path, str]:
        """The folders to sync now, with the state that each has."""
        now_s = time.monotonic()
        found: dict[Path, str] = {}
        for root in self._roots:
            try:
                paths = meant_folders(root)
            except RecordError:
                continue  # Nothing there yet.
            for path in paths:
                state, known = folder_state(path), self._followed.get(path)
                if (path / RUN).exists() and not (path / ENVIRONMENT).exists():
                    continue  # It has only begun.
                if (
                    known is None
                    or (now_s >= known.next_try_s and (known.state != state or known.num_failures))
                    or (known.state != state and _is_over(path) and not known.num_failures)
                ):
                    found[path] = state
        return found

    def _sync(self, due: dict[Path, str]) -> None:
        homes: dict[str, Path] = {}
        folders = []
        for path in due:
            if path not in self._followed and self._ledger.entry(path.resolve()) is not None:
                homes[str(path.resolve())] = path
                folders.append(RunFolder(path))
                continue
            try:
                folder = at_home(path, self._results_dir, self._config_dirs)
                if _is_over(folder.path):
                    make_ready(folder, self._console)
            except (ChipscaleError, OSError) as error:
                self._note(path, due[path], error=str(error))
                continue
            homes[str(folder.path.resolve())] = path
            folders.append(folder)

        def tell(result: SyncResult) -> None:
            path = homes[result.folder]
            self._note(path, due[path], result=result)

        sync(
            folders,
            self._target,
            budget_s=BUDGET_S,
            vendors=self._vendors,
            patience_s=self._interval_s,
            tell=tell,
        )

    def _note(
        self, path: Path, state: str, result: SyncResult | None = None, error: str = ""
    ) -> None:
        before = self._followed.get(path)
        has_failed = result is None or not result.is_done
        message = error if result is None else result.message
        num_failures = 1 + (before.num_failures if before else 0) if has_failed else 0
        wait_s = self._wait_s(num_failures) if has_failed else GROWING_S
        self._followed[path] = Followed(
            # What bringing it home has changed in it is no news.
            state=folder_state(path) if _is_over(path) and not has_failed else state,
            next_try_s=time.monotonic() + wait_s,
            num_failures=num_failures,
            message=message,
        )
        is_news = result is None or result.state is not SyncState.UNCHANGED
        if is_news and (before is None or before.message != message or not has_failed):
            self.say(f"{path.name}: {message}")

    def _wait_s(self, num_failures: int) -> float:
        return min(self._interval_s * 2.0**num_failures, max(MAX_WAIT_S, self._interval_s))

    def say(self, text: str) -> None:
        """One event."""
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(f"{now} {text}", markup=False, soft_wrap=True)


def _is_over(path: Path) -> bool:
    """Whether nothing more is expected in it: a run that has ended, or what is written at once."""
    if not (path / RUN).exists():
        return True
    try:
        return bool(RunFolder(path).info.ended_at)
    except RecordError:
        return True


def watch(
    roots: Sequence[Path],
    results_dir: Path,
    config_dirs: Sequence[Path],
    interval_s: float,
    target: TrackingTarget,
    console: Console,
) -> int:
    """Follow the folders until Ctrl-C or SIGTERM, which both end it quietly.

    Raises:
        ConfigError: for an interval that cannot be.
    """
    if interval_s <= 0:
        raise ConfigError(f"--interval: {interval_s:g} is no number of seconds above 0.")
    watcher = Watcher(roots, results_dir, config_dirs, interval_s, target, console)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    held = signal.signal(signal.SIGTERM, interrupt)
    try:
        names = ", ".join(str(root) for root in roots)
        watcher.say(f"following {names} every {interval_s:g} s; Ctrl-C ends it.")
        while True:
            time.sleep(watcher.look())
    except KeyboardInterrupt:
        watcher.say("stopped; what was being logged is finished by the next sync.")
        return 0
    finally:
        signal.signal(signal.SIGTERM, held)
