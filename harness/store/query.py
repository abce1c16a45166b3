"""Query: runs by what they are, as `chip=h200 suite=training latest`."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.environment import Environment
from harness.errors import RecordError, did_you_mean
from harness.store.folder import RunFolder, RunInfo

LATEST, OLDEST = "latest", "oldest"
ORDERS = (LATEST, OLDEST)
OF_RUN: dict[str, Callable[[RunInfo], str]] = {
    "chip": lambda info: info.chip,
    "suite": lambda info: info.suite,
    "model": lambda info: info.model,
    "device": lambda info: info.device,
}
OF_ENVIRONMENT: dict[str, Callable[[Environment], str]] = {
    "host": lambda environment: environment.host,
    "branch": lambda environment: environment.branch,
    "commit": lambda environment: environment.commit,
}
KEYS = (*OF_RUN, *OF_ENVIRONMENT)
MAX_NAMED = 8
SHORT_COMMIT = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The run that a query means."""

    folder: RunFolder
    remark: str = ""
    """Which of several it is; empty where it is the only one."""


def is_query(name: str) -> bool:
    """It asks for properties, and is not a name."""
    words = _words(name)
    return any("=" in word for word in words) or all(word in ORDERS for word in words)


def _words(text: str) -> list[str]:
    return re.split(r"[\s,]+", text.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a run has to be."""

    text: str
    wanted: tuple[tuple[str, str], ...]
    """Keys of KEYS or of tags, each with the value it has to have or to begin with."""
    order: str = LATEST

    @classmethod
    def parse(cls, text: str) -> "Query":
        """From words with spaces or commas between them.

        Raises:
            RecordError: for a word that is neither `key=value` nor an order, and for two orders.
        """
        wanted: list[tuple[str, str]] = []
        orders: list[str] = []
        for word in _words(text):
            key, is_pair, value = word.partition("=")
            if word in ORDERS:
                orders.append(word)
            elif is_pair and key and value:
                wanted.append((key, value))
            else:
                raise RecordError(
                    f"{text}: '{word}' is no part of a query. {did_you_mean(word, ORDERS)}"
                    f"Write key=value, with {', '.join(KEYS)} or a tag as key, or {LATEST} or "
                    f"{OLDEST}."
                )
        if len(set(orders)) > 1:
            raise RecordError(f"{text}: {LATEST} and {OLDEST} are both asked for. Keep one.")
        return cls(text=text, wanted=tuple(wanted), order=(orders or [LATEST])[0])

    def find(self, folders: Sequence[RunFolder]) -> Found:
        """The newest of the runs that match, or the oldest; those without a record do not count.

        Args:
            folders: oldest first.

        Raises:
            RecordError: when none matches, with what there is and the nearest value; or for a key
                that no run has.
        """
        kept = [_Readable.of(folder) for folder in folders if folder.has_records]
        runs = [run for run in kept if run is not None]
        if not runs:
            raise RecordError(f"{self.text}: none of the {len(folders)} runs has a record yet.")
        for key, value in self.wanted:
            _check_key(key, runs, self.text)
            left = [run for run in runs if matches(run.value(key), value)]
            if not left:
                raise RecordError(_none_text(self.text, key, value, runs))
            runs = left
        chosen = runs[0] if self.order == OLDEST else runs[-1]
        remark = ""
        if len(runs) > 1 and self.wanted:
            which = "oldest" if self.order == OLDEST else "newest"
            remark = f"{self.text}: {len(runs)} runs match; the {which}, {chosen.info.run_id}."
        return Found(folder=chosen.folder, remark=remark)


def matches(held: str, wanted: str) -> bool:
    """Equal, or beginning with it, so that `h200` is `h200_sxm` and a commit may be cut short."""
    return held.startswith(wanted)


@dataclass(slots=True)
class _Readable:
    """A run whose description can be read."""

    folder: RunFolder
    info: RunInfo
    environment: Environment | None = None

    @classmethod
    def of(cls, folder: RunFolder) -> "_Readable | None":
        """None for a run that cannot be read, which must not hide the others."""
        try:
            return cls(folder, folder.info)
        except RecordError:
            return None

    def value(self, key: str) -> str:
        """What the run has for that key; empty where it has nothing."""
        if key in OF_RUN:
            return OF_RUN[key](self.info)
        if key not in OF_ENVIRONMENT:
            return dict(self.info.tags).get(key, "")
        if self.environment is None:
            try:
                self.environment = self.folder.environment
            except RecordError:
                return ""
        return OF_ENVIRONMENT[key](self.environment)


def _check_key(key: str, runs: Iterable[_Readable], text: str) -> None:
    tags = dict.fromkeys(name for run in runs for name, _ in run.info.tags)
    if key not in KEYS and key not in tags:
        known = (*KEYS, *tags)
        raise RecordError(
            f"{text}: no run has a '{key}'. {did_you_mean(key, known)}Keys are {', '.join(known)}."
        )


def _none_text(text: str, key: str, value: str, runs: Sequence[_Readable]) -> str:
    """One line: what there is of that key among the runs that match the words before it."""
    held = Counter(
        run.value(key)[:SHORT_COMMIT] if key == "commit" else run.value(key) for run in runs
    )
    named = [f"{name or 'none'} ({count})" for name, count in held.most_common(MAX_NAMED)]
    more = f" and {len(held) - MAX_NAMED} more" if len(held) > MAX_NAMED else ""
    return (
        f"{text}: no run has {key}={value}. {did_you_mean(value, held)}"
        f"There is {key} {', '.join(named)}{more}."
    )
