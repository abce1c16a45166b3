"""The charts of a saved view: their order, their axes, and what stays closed until it is asked for.

MLflow would otherwise draw every metric in the order of the alphabet, three to a row, with names
that are cut off. What is not named here it adds at the end of its section by itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.store.mlflow.keys import MEASURES

SHOWN = MEASURES[:3]
"""Drawn first: the time, and the rates."""
MAX_CHARTS = 400
"""A view is one tag of 20,000 characters; so many charts take a third of it when compressed."""
MAX_OPEN = 24
"""Charts that are drawn at once; more sections are closed and open with a click."""
CLOSED = ("closure", "roofs")
"""Sections that check the measuring; what was measured comes before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One metric against its step, or, at step 0 alone, a bar per run."""

    key: str
    is_line: bool = True
    is_log: bool = False
    """The horizontal axis, for sizes that double."""

    def state(self, section: str) -> dict[str, Any]:
        """As MLflow's UI keeps it."""
        state: dict[str, Any] = {
            "uuid": self.key,
            "type": "LINE" if self.is_line else "BAR",
            "runsCountToCompare": 10,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": True,
            "metricKey": self.key,
        }
        if self.is_line:
            state |= {
                "lineSmoothness": 0,
                "xAxisScaleType": "log" if self.is_log else "linear",
                "scaleType": "linear",
                "range": {},
                "xAxisKey": "step",
                "selectedXAxisMetricKey": "",
                "yAxisKey": "metric",
                "yAxisExpressions": [],
                "ignoreOutliers": False,
                "useGlobalXaxisKey": True,
                "useGlobalLineSmoothing": True,
            }
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The charts of all keys that begin with its name and a slash."""

    name: str
    charts: tuple[Chart, ...] = ()
    is_open: bool = True

    def state(self) -> dict[str, Any]:
        """As MLflow's UI keeps it: two to a row, so that the names can be read."""
        return {
            "uuid": self.name,
            "name": self.name,
            "display": self.is_open,
            # New charts go to the end, not to their place in the alphabet.
            "isReordered": True,
            "deleted": False,
            "isGenerated": True,
            "columns": 2,
            "cardHeight": 300,
        }


def _measure(name: str) -> int:
    measure = name.partition(".")[0]
    return SHOWN.index(measure) if measure in SHOWN else len(SHOWN)


def suite_sections(points: Iterable[tuple[str, int]]) -> tuple[Section, ...]:
    """The sections of a suite: those with a sweep first, each in the order of the run.

    Args:
        points: The key and the step of each value in a section.
    """
    steps: dict[str, int] = {}
    for key, step in points:
        steps[key] = max(step, steps.get(key, 0))
    keys_of: dict[str, list[str]] = {}
    for key in steps:
        section, _, name = key.rpartition("/")
        keys_of.setdefault(section, [])
        if _measure(name) < len(SHOWN) and section not in CLOSED:
            keys_of[section].append(key)
    swept = {name for name, keys in keys_of.items() if any(steps[key] > 0 for key in keys)}
    sections, num_charts, num_open = [], 0, 0
    for name in sorted(keys_of, key=lambda name: (name in CLOSED, name not in swept)):
        # Lines before bars, then time before rates, else as they came.
        keys = sorted(
            keys_of[name], key=lambda key: (steps[key] == 0, _measure(key.rpartition("/")[2]))
        )
        keys = keys[: max(MAX_CHARTS - num_charts, 0)]
        charts = tuple(Chart(key=key, is_line=steps[key] > 0, is_log=True) for key in keys)
        num_charts += len(charts)
        is_open = name not in CLOSED and (num_open == 0 or num_open + len(charts) <= MAX_OPEN)
        num_open += len(charts) if is_open else 0
        sections.append(Section(name=name, charts=charts, is_open=is_open))
    return tuple(sections)


def state(sections: Sequence[Section]) -> dict[str, Any]:
    """The part of a view that is about charts."""
    return {
        "compareRunCharts": [
            chart.state(section.name) for section in sections for chart in section.charts
        ],
        "compareRunSections": [section.state() for section in sections],
        # The order is ours, not that of the alphabet.
        "isAccordionReordered": True,
    }


PROJECTION_SECTIONS = (
    Section(
        name="by_number_of_chips",
        charts=(
            # Perfect scaling is a straight line on even axes.
            Chart(key="by_number_of_chips/tokens_per_s"),
            *(
                Chart(key=f"by_number_of_chips/{name}", is_log=True)
                for name in (
                    "tokens_per_s_per_chip",
                    "mfu",
                    "goodput",
                    "useful_tokens_per_s",
                    "step_s",
                    "cost_per_million_tokens",
                    "joules_per_token",
                )
            ),
        ),
    ),
    Section(name="step_parts"),
)
SERVING_SECTIONS = (
    Section(
        name="by_tokens_per_s_per_user",
        charts=tuple(
            Chart(key=f"by_tokens_per_s_per_user/{name}")
            for name in ("tokens_per_s_per_chip", "sequences_per_chip")
        ),
    ),
)
