"""`make screenshots`: the pictures of the README, of MLflow's UI over real runs of fake chips.

python -m tests.browser.screenshots [FOLDER]
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize

from harness.store.interface import running_server
from tests.browser.chromium import chromium, shoot
from tests.browser.filled import fill
from tests.browser.site import Site, site_of

FOLDER = Path("docs/images")
SIZE: ViewportSize = {"width": 1280, "height": 760}
NUM_COLOURS = 128
"""Plain pages need no more, and a picture stays below 100 kB."""


def _rows(page: Page) -> None:
    page.locator(".ag-cell[col-id='tags.`chip`']").first.wait_for()


def _plots(page: Page) -> None:
    page.locator(".js-plotly-plot .main-svg").first.wait_for()


def _report(page: Page) -> None:
    report = page.frame_locator("iframe")
    # Plots are drawn once they are in sight, and the first is below the frame's edge.
    report.locator("figure[data-plot]").first.scroll_into_view_if_needed()
    report.locator(".js-plotly-plot .main-svg").first.wait_for()


def pictures(site: Site) -> dict[str, tuple[str, Callable[[Page], None]]]:
    """Link and what to wait for, by name."""
    return {
        "leaderboard": (site.runs_page("quick", "leaderboard"), _rows),
        "by-chip": (site.runs_page("quick", "by-chip", "CHART"), _plots),
        "report": (site.run_page("quick", "fake_alpha", "/artifacts/report.html"), _report),
        "scaling": (site.runs_page("projection", "by-chip", "CHART"), _plots),
    }


def _compress(path: Path) -> None:
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(NUM_COLOURS).save(path, optimize=True)


def main() -> None:
    """Measure the fake chips, open the pages, keep and compress what they show."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with (
        tempfile.TemporaryDirectory(prefix="chipscale-") as results,
        running_server(fill(Path(results)), 0) as (served, _),
        chromium() as browser,
    ):
        page = browser.new_page()
        page.set_viewport_size(SIZE)
        for name, (link, drawn) in pictures(site_of(served)).items():
            page.goto("about:blank")
            page.goto(link)
            drawn(page)
            # Lines appear one after the other.
            page.wait_for_timeout(2000)
            path = shoot(page, folder, f"mlflow-{name}")
            _compress(path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
