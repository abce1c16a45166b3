"""One server over results of real runs and one browser for all tests of the folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from harness.store.interface import running_server
from tests.browser.chromium import EXECUTABLE, WAIT_MS, chromium, shoot
from tests.browser.filled import fill
from tests.browser.site import Site, site_of

SCREENSHOTS = Path(os.environ.get("CHIPSCALE_SCREENSHOTS", "build/screenshots"))


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
