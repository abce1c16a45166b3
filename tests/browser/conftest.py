"""One server over results of real runs for all tests of the folder, and a browser for each file."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from harness.store.interface import running_server
from tests.browser.chromium import EXECUTABLE, WAIT_MS, launched, shoot, visitor
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a file.

    Not for the whole session: Playwright's loop runs as long as it is open, and neither a second
    one nor `asyncio.run` in another file's test would start beside it.
    """
    if EXECUTABLE is None:
        pytest.skip("no `chromium` on the path")
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(site: Site, browser: Browser) -> Page:
    del site  # No browser where there is nothing to show.
    expect.set_options(timeout=WAIT_MS)
    return visitor(browser).new_page()


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
