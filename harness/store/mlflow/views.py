"""The saved views of an experiment: columns, order and grouping a person need not set up.

MLflow's UI keeps them as experiment tags `mlflow.sharedViewState.<key>`. The format is not
documented; it was read from what MLflow 3.17 writes, so a view that fails to load is only lost.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.store.mlflow.charts import PROJECTION_SECTIONS, SERVING_SECTIONS, Section
from harness.store.mlflow.charts import state as charts_state

VIEW_TAG = "mlflow.sharedViewState."
COMPRESSED = "deflate;"
"""Begins a state that is compressed, as MLflow's own are."""
MAX_VIEW = 19_000
"""MLflow keeps 20,000 characters of an experiment's tag."""
RUN_NAME = "attributes.`Run Name`"
WIDTHS = {
    RUN_NAME: 300,
    "tags.`chip`": 130,
    "tags.`git_branch`": 110,
    "tags.`plan`": 260,
    "metrics.`geomean_us`": 115,
    "metrics.`ok`": 75,
    "metrics.`failed`": 80,
    "metrics.`noisy`": 80,
    "metrics.`roof_tflops`": 115,
    "metrics.`roof_gbps`": 105,
    "metrics.`million_tokens_per_s`": 180,
    "metrics.`tokens_per_s_per_chip`": 190,
    "metrics.`tokens_per_joule`": 150,
}
"""In pixels, so that names and heads are not cut off; others get the UI's 100 or so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One entry of the UI's menu of views."""

    key: str
    name: str
    columns: tuple[str, ...]
    """As the UI names them: metrics.`geomean_us`, tags.`chip`; from left to right."""
    order_by: str
    is_ascending: bool = True
    group_by_tag: str = ""
    sections: tuple[Section, ...] = ()
    """The charts; none leaves them to MLflow."""
    place: int = 0
    """In the menu."""

    @property
    def tag(self) -> str:
        """The key of the experiment tag."""
        return VIEW_TAG + self.key

    def state(self) -> str:
        """What the UI restores."""
        group = {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": self.group_by_tag}],
        }
        state = {
            "searchFilter": "",
            "orderByKey": self.order_by,
            "orderByAsc": self.is_ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": list(self.columns),
            "columnOrder": [RUN_NAME, *self.columns],
            "columnWidths": WIDTHS,
            # The UI otherwise draws the first ten runs only.
            "runsHiddenMode": "SHOW_ALL",
            "groupBy": group if self.group_by_tag else None,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "viewMaximized": False,
            "runListHidden": False,
            "globalLineChartConfig": {
                "xAxisKey": "step",
                "lineSmoothness": 0,
                "selectedXAxisMetricKey": "",
            },
            **(charts_state(self.sections) if self.sections else {}),
        }
        packed = zlib.compress(json.dumps(state, separators=(",", ":")).encode(), 9)
        return COMPRESSED + base64.b64encode(packed).decode()

    def value(self, created_ms: int) -> str:
        """The value of the experiment tag."""
        # The menu has the newest first.
        time_ms = created_ms - self.place
        return json.dumps(
            {
                "name": self.name,
                "createdAt": time_ms,
                "updatedAt": time_ms,
                "state": self.state(),
            }
        )

    def is_held_by(self, value: str) -> bool:
        """That tag's value already restores this view."""
        try:
            held = json.loads(value)
        except json.JSONDecodeError:
            return False
        return isinstance(held, dict) and held.get("state") == self.state()


_SUITE = (
    "tags.`chip`",
    "metrics.`geomean_us`",
    "metrics.`pct_roof`",
    "metrics.`ok`",
    "metrics.`failed`",
    "metrics.`noisy`",
    "metrics.`roof_tflops`",
    "metrics.`roof_gbps`",
    "tags.`model`",
    "tags.`git_branch`",
    "tags.`host`",
)
_PROJECTION = (
    "tags.`chip`",
    "tags.`model`",
    "metrics.`chips`",
    "metrics.`million_tokens_per_s`",
    "metrics.`mfu`",
    "metrics.`step_s`",
    "metrics.`goodput`",
    "tags.`cluster`",
    "tags.`plan`",
)
_SERVING = (
    "tags.`chip`",
    "tags.`model`",
    "metrics.`tokens_per_s_per_chip`",
    "metrics.`million_tokens_per_s`",
    "metrics.`ttft_s`",
    "metrics.`tpot_s`",
    "metrics.`tokens_per_joule`",
    "tags.`cluster`",
    "tags.`plan`",
)
NEWEST = "attributes.`Created`"


def _views(
    columns: tuple[str, ...], best: str, *, is_least: bool, sections: tuple[Section, ...] = ()
) -> tuple[View, ...]:
    """The three of every experiment; `best` is the metric that the leaderboard is ordered by."""
    latest = View(
        key="latest",
        name="Latest",
        columns=columns,
        order_by=NEWEST,
        is_ascending=False,
        sections=sections,
    )
    leaderboard = replace(
        latest, key="leaderboard", name="Leaderboard", order_by=best, is_ascending=is_least, place=1
    )
    # By time: the UI loads a hundred runs at first, and the hundred best may all be of one chip.
    by_chip = replace(latest, key="by-chip", name="By chip", group_by_tag="chip", place=2)
    return latest, leaderboard, by_chip


SUITE_VIEWS = _views(_SUITE, "metrics.`geomean_us`", is_least=True)
PROJECTION_VIEWS = _views(
    _PROJECTION, "metrics.`million_tokens_per_s`", is_least=False, sections=PROJECTION_SECTIONS
)
SERVING_VIEWS = _views(
    _SERVING, "metrics.`tokens_per_s_per_chip`", is_least=False, sections=SERVING_SECTIONS
)


def with_charts(views: Sequence[View], sections: tuple[Section, ...]) -> tuple[View, ...]:
    """The views with these charts; with as many sections as a tag has room for."""
    while sections:
        made = tuple(replace(view, sections=sections) for view in views)
        if all(len(view.value(0)) < MAX_VIEW for view in made):
            return made
        sections = sections[: len(sections) // 2]
    return tuple(views)
