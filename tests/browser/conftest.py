"""One server over results of real runs and one browser for all tests of the folder."""

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from harness.store.interface import landing_link, running_server
from harness.store.mlflow import TrackingTarget
from tests.browser.chromium import EXECUTABLE, WAIT_MS, chromium, shoot
from tests.browser.filled import fill

SCREENSHOTS = Path(os.environ.get("CHIPSCALE_SCREENSHOTS", "build/screenshots"))


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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if EXECUTABLE is None:
        pytest.skip("no `chromium` on the path")
    results = tmp_path_factory.mktemp("browsed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        target = fill(results)
    with running_server(target, 0) as (served, _):
        yield site_of(served)


@pytest.fixture(scope="session")
def page(site: Site) -> Iterator[Page]:
    del site  # No browser where there is nothing to show.
    expect.set_options(timeout=WAIT_MS)
    with chromium() as context:
        yield context.new_page()


@pytest.fixture
def shot(page: Page, request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep what the page shows at the test's end, whether it passed or not."""
    yield
    shoot(page, SCREENSHOTS, request.node.name.removeprefix("test_"))


@pytest.fixture
def show(page: Page, shot: None) -> Callable[[str, str], Page]:
    """Open a link of the site and wait for a text of it."""
    del shot

    def opened(link: str, text: str) -> Page:
        page.goto(link)
        page.get_by_text(text).first.wait_for()
        return page

    return opened
