"""Debian's Chromium, driven by Playwright, that reaches this machine alone.

MLflow's pages keep asking the server for more, so they are never idle: wait for text, not for
`networkidle`.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Route, ViewportSize, sync_playwright

EXECUTABLE = shutil.which("chromium")
SIZE: ViewportSize = {"width": 1600, "height": 900}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    # Containers give /dev/shm 64 MB, and pages of thousands of cases need more.
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000
"""Far longer than a page takes, so that a busy machine fails no test."""
RETURNING = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
"""
"""MLflow opens the pane of its assistant at a browser's first visit, and not again."""


def _only_this_machine(route: Route) -> None:
    url = route.request.url
    if url.startswith(("http://127.0.0.1:", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser; a process can have one at a time, since each holds a loop of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        yield browser
        browser.close()


def visitor(browser: Browser) -> BrowserContext:
    """Somebody who has visited MLflow before and reaches this machine alone."""
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(WAIT_MS)
    context.route("**/*", _only_this_machine)
    context.add_init_script(RETURNING)
    return context


@contextlib.contextmanager
def chromium() -> Iterator[BrowserContext]:
    """A visitor with a browser of its own."""
    with launched() as browser:
        yield visitor(browser)


def shoot(page: Page, folder: Path, name: str) -> Path:
    """Keep what the page shows, to be looked at by a person."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    return path
