"""`chipscale gate accept CASE... --reason WHY --until DATE`: let a regression pass, for a time."""

import argparse
import getpass
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console

from harness.arms import git
from harness.arms.job import gate_folders
from harness.arms.source import running_tree
from harness.case_pattern import matches
from harness.cli.gate_list import results_dir_of
from harness.config.compose import compose
from harness.errors import ConfigError, did_you_mean
from harness.gate.exemptions import checked, exemptions_text, read_exemptions
from harness.gate_result import Exemption, GateResult, State
from harness.store.disk import write_atomically
from harness.store.gate_folder import GateFolder
from harness.units import percent

MAX_DAYS = 366
"""Longer than a year is not for a time."""
HEADROOM = 1.25
"""Of the limit over what was found, since the next gate finds a little more or less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The last gate that came to its end."""

    result: GateResult
    folder: Path

    def change_of(self, pattern: str) -> float | None:
        """The largest slow-down of the cases that the pattern names; None where none is known."""
        changes = [
            case.change.value
            for case in self.result.cases
            if case.change is not None and matches(pattern, case.case_id)
        ]
        return max(changes, default=None)


def accept(words: Sequence[str], options: argparse.Namespace) -> int:
    """Write the exemptions.

    Raises:
        ConfigError: for a case that the last gate does not have, or a day that is over.
    """
    results_dir, rest = results_dir_of(words)
    cases = [word for word in rest if not word.startswith("gate.exemptions=")]
    overrides = [word for word in rest if word.startswith("gate.exemptions=")]
    path = Path(compose("gate", overrides, options.config_dir).gate.exemptions).resolve()
    if not cases:
        raise ConfigError(
            "accept: no case is named. `chipscale gate show` lists those of the last gate."
        )
    if not options.reason or not options.reason.strip():
        raise ConfigError("--reason: say why it may pass; whoever meets the exemption asks.")
    until = _until(options.until, options.days)
    last = _last_gate(results_dir)
    made = [_exemption(case, until, options, last) for case in cases]
    file = read_exemptions(path)
    for one in made:
        file = file.with_exemption(one)
    if not path.parent.is_dir():
        raise ConfigError(f"gate.exemptions: {path.parent} is not a folder. Make it first.")
    # Laid out, since people review it.
    text = json.dumps(json.loads(exemptions_text(file)), indent=2)
    write_atomically(path, text + "\n")
    console = Console(highlight=False)
    for one in made:
        console.print(
            f"{one.case_id}: up to {percent(one.limit, 3)} slower passes until {one.until}.",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"Written to {path}; commit it.", markup=False, soft_wrap=True)
    return 0


def _until(until: str | None, days: int | None) -> date:
    today = datetime.now(UTC).date()
    if (until is None) == (days is None):
        raise ConfigError(
            "--until: an exemption ends. Give its last day as --until 2026-12-31, or --days 30."
        )
    if days is not None:
        if not 1 <= days <= MAX_DAYS:
            raise ConfigError(f"--days: {days} is not between 1 and {MAX_DAYS}.")
        return today + timedelta(days=days)
    assert until is not None
    try:
        day = date.fromisoformat(until)
    except ValueError:
        raise ConfigError(f"--until: '{until}' is no day. Write it as 2026-12-31.") from None
    if day < today:
        raise ConfigError(f"--until: {day} is over; today is {today}.")
    if day > today + timedelta(days=MAX_DAYS):
        raise ConfigError(f"--until: {day} is more than {MAX_DAYS} days away, which is for ever.")
    return day


def _last_gate(results_dir: Path) -> _Found | None:
    whole = [one for one in gate_folders(results_dir) if GateFolder(one).is_whole]
    return _Found(result=GateFolder(whole[-1]).result, folder=whole[-1]) if whole else None


def _exemption(
    pattern: str, until: date, options: argparse.Namespace, last: _Found | None
) -> Exemption:
    """Raises ConfigError where the last gate has no such case, or there is no limit."""
    if last is not None:
        ids = [case.case_id for case in last.result.cases]
        if not any(matches(pattern, case_id) for case_id in ids):
            regressed = [case.case_id for case in last.result.of(State.REGRESSED)]
            raise ConfigError(
                f"'{pattern}' is none of the {len(ids)} cases of gate {last.folder.name}. "
                f"{did_you_mean(pattern, regressed or ids)}`chipscale gate show` lists them."
            )
    limit = options.limit
    if limit is None:
        found = None if last is None else last.change_of(pattern)
        if found is None or found <= 0:
            raise ConfigError(
                f"--limit: no gate found '{pattern}' slower, so say how much slower it may be, as "
                "--limit 0.08 for 8 %."
            )
        limit = math.ceil(found * HEADROOM * 1000) / 1000
    return checked(
        Exemption(
            case_id=pattern,
            limit=limit,
            reason=options.reason.strip(),
            until=until.isoformat(),
            author=_author(),
            commit="" if last is None else last.result.head.commit,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    )


def _author() -> str:
    """As git knows the user, else as the system does."""
    try:
        return git.git(running_tree(), "config", "user.name")
    except ConfigError:
        try:
            return getpass.getuser()
        except (KeyError, OSError):
            return ""
