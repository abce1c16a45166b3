"""Energy counters that wrap around, and the power that follows from two readings."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LEAST_INTERVAL_S = 0.005
"""Power over less than this is noise: such counters move about once in a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterFile:
    """A file with a count of microjoules."""

    path: Path
    range_uj: float | None = None
    """It starts again from zero after so many; None where it does not in any practical time."""


class EnergyCounter:
    """The sum of some counters in joules since the first reading, which never falls."""

    def __init__(
        self, files: Sequence[CounterFile], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._files = tuple(files)
        self._now_s = now_s
        self._last_uj: dict[Path, float] = {}
        self._energy_j = 0.0
        self._power_from: tuple[float, float] | None = None
        self._power_w: float | None = None

    def read(self) -> tuple[float | None, float | None]:
        """Energy in joules and, from the second reading on, the mean power in W since the last.

        Both None where a counter cannot be read: a part of the chip's energy is not its energy. A
        counter that went once around between two readings is counted right; 2^32 units of
        15.3 microjoules last at 300 W for more than three minutes.
        """
        grown_uj = 0.0
        for file in self._files:
            value_uj = read_number(file.path)
            if value_uj is None:
                return None, None
            last_uj = self._last_uj.get(file.path, value_uj)
            if value_uj < last_uj:
                # Around once; without a range it was reset, and what was lost is not known.
                grown_uj += value_uj + ((file.range_uj or last_uj) - last_uj)
            else:
                grown_uj += value_uj - last_uj
            self._last_uj[file.path] = value_uj
        if not self._files:
            return None, None
        self._energy_j += 1e-6 * grown_uj
        now_s = self._now_s()
        if self._power_from is None:
            self._power_from = (now_s, self._energy_j)
        elif now_s - self._power_from[0] >= LEAST_INTERVAL_S:
            since_s, since_j = self._power_from
            self._power_w = (self._energy_j - since_j) / (now_s - since_s)
            self._power_from = (now_s, self._energy_j)
        return self._energy_j, self._power_w


def read_text(path: Path) -> str | None:
    """What the file of a driver says, or None where it is missing, forbidden or broken."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> float | None:
    """The whole number in a driver's file, or None."""
    text = read_text(path)
    try:
        return float(int(text)) if text else None
    except ValueError:
        return None
