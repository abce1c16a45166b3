"""A headless browser for pages that people open: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator

import pytest

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """One browser for the tests of a file.

    Not for the whole session: Playwright's loop runs as long as it is open, and `asyncio.run` in
    another file's test would refuse to start beside it.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()
