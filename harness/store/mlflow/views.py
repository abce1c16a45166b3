"""The saved views of an experiment: columns, order and grouping a person need not set up.

MLflow's UI keeps them as experiment tags `mlflow.sharedViewState.<key>`. The format is not
documented; it was read from what MLflow 3.17 writes, so a view that fails to load is only lost.
"""

import json
from dataclasses import dataclass

VIEW_TAG = "mlflow.sharedViewState."


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
        return json.dumps(
            {
                "searchFilter": "",
                "orderByKey": self.order_by,
                "orderByAsc": self.is_ascending,
                "startTime": "ALL",
                "lifecycleFilter": "Active",
                "datasetsFilter": [],
                "modelVersionFilter": "All Runs",
                "selectedColumns": list(self.columns),
                "columnOrder": list(self.columns),
                "columnWidths": {},
                # The UI otherwise draws the first ten runs only.
                "runsHiddenMode": "SHOWALL",
                "groupBy": group if self.group_by_tag else None,
                "groupsExpanded": {},
                "useGroupedValuesInCharts": True,
                "hideEmptyCharts": True,
                "viewMaximized": False,
                "runListHidden": False,
                "isAccordionReordered": False,
                "globalLineChartConfig": {
                    "xAxisKey": "step",
                    "lineSmoothness": 0,
                    "selectedXAxisMetricKey": "",
                },
            }
        )

    def value(self, created_ms: int) -> str:
        """The value of the experiment tag."""
        return json.dumps(
            {
                "name": self.name,
                "createdAt": created_ms,
                "updatedAt": created_ms,
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
    "metrics.`roof_tflops`",
    "metrics.`roof_gbps`",
    "tags.`git_branch`",
    "tags.`host`",
)
_PROJECTION = (
    "tags.`chip`",
    "metrics.`chips`",
    "metrics.`tokens_per_s`",
    "metrics.`mfu`",
    "metrics.`step_s`",
    "tags.`model`",
    "tags.`cluster`",
    "tags.`plan`",
)
NEWEST = "attributes.`Created`"

SUITE_VIEWS = (
    View(key="latest", name="Latest", columns=_SUITE, order_by=NEWEST, is_ascending=False),
    View(key="leaderboard", name="Leaderboard", columns=_SUITE, order_by="metrics.`geomean_us`"),
    View(
        key="by-chip",
        name="By chip",
        columns=_SUITE,
        order_by="metrics.`geomean_us`",
        group_by_tag="chip",
    ),
)
PROJECTION_VIEWS = (
    View(key="latest", name="Latest", columns=_PROJECTION, order_by=NEWEST, is_ascending=False),
    View(
        key="leaderboard",
        name="Leaderboard",
        columns=_PROJECTION,
        order_by="metrics.`tokens_per_s`",
        is_ascending=False,
    ),
    View(
        key="by-chip",
        name="By chip",
        columns=_PROJECTION,
        order_by="metrics.`tokens_per_s`",
        is_ascending=False,
        group_by_tag="chip",
    ),
)
_SERVING = (
    "tags.`chip`",
    "metrics.`tokens_per_s`",
    "metrics.`tokens_per_s_per_chip`",
    "metrics.`ttft_s`",
    "metrics.`tpot_s`",
    "metrics.`tokens_per_joule`",
    "tags.`model`",
    "tags.`cluster`",
    "tags.`plan`",
)
SERVING_VIEWS = (
    View(key="latest", name="Latest", columns=_SERVING, order_by=NEWEST, is_ascending=False),
    View(
        key="leaderboard",
        name="Leaderboard",
        columns=_SERVING,
        order_by="metrics.`tokens_per_s_per_chip`",
        is_ascending=False,
    ),
    View(
        key="by-chip",
        name="By chip",
        columns=_SERVING,
        order_by="metrics.`tokens_per_s_per_chip`",
        is_ascending=False,
        group_by_tag="chip",
    ),
)
