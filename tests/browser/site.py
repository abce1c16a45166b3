"""Where things are in the UI that is served."""

import json
import urllib.request
from dataclasses import dataclass

from harness.store.interface import landing_link
from harness.store.mlflow import TrackingTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The UI that is served, and where things are in it."""

    target: TrackingTarget
    landing: str
    """What `chipscale ui` prints."""
    experiments: dict[str, str]
    """Id by the name without `chipscale/`."""
    runs: dict[str, list[str]]
    """Ids by experiment and chip, `quick fake_alpha`; the oldest first."""

    def runs_page(self, experiment: str, view: str, mode: str = "") -> str:
        """Link to the runs of an experiment: a list, or in mode CHART or ARTIFACT."""
        chosen = f"&compareRunsMode={mode}" if mode else ""
        return (
            f"{self.target.ui_url}/#/experiments/{self.experiments[experiment]}/runs"
            f"?workflowType=machine_learning&viewStateShareKey={view}{chosen}"
        )

    def run_page(self, experiment: str, chip: str, tab: str = "") -> str:
        """Link to the oldest run of a chip."""
        run = self.runs[f"{experiment} {chip}"][0]
        place = f"experiments/{self.experiments[experiment]}/runs/{run}{tab}"
        return f"{self.target.ui_url}/#/{place}?workflowType=machine_learning"


def _post(url: str, body: dict[str, object]) -> dict[str, list[dict[str, dict[str, object]]]]:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def site_of(target: TrackingTarget) -> Site:
    """What the served database holds."""
    api = f"{target.ui_url}/api/2.0/mlflow"
    found = _post(f"{api}/experiments/search", {"max_results": 100})["experiments"]
    experiments = {
        str(one["name"]).removeprefix("chipscale/"): str(one["experiment_id"]) for one in found
    }
    runs: dict[str, list[str]] = {}
    for name, experiment_id in experiments.items():
        order = ["attributes.start_time ASC"]
        wanted = {"experiment_ids": [experiment_id], "order_by": order}
        for run in _post(f"{api}/runs/search", wanted).get("runs", []):
            tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
            runs.setdefault(f"{name} {tags['chip']}", []).append(run["info"]["run_id"])
    return Site(target=target, landing=landing_link(target), experiments=experiments, runs=runs)
