"""Debian's Chromium, driven by Playwright, that reaches this machine alone.

MLflow's pages keep asking the server for more, so they are never idle: wait for text, not for
`networkidle`.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, Route, sync_playwright

EXECUTABLE = shutil.which("chromium")
SIZE = {"width": 1600, "height": 900}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
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
def chromium(*, is_first_visit: bool = False) -> Iterator[BrowserContext]:
    """A fresh profile; by default one that has visited MLflow before."""
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=EXECUTABLE, headless=True, viewport=SIZE, args=list(FLAGS)
        )
        context.set_default_timeout(WAIT_MS)
        context.route("**/*", _only_this_machine)
        if not is_first_visit:
            context.add_init_script(RETURNING)
        try:
            yield context
        finally:
            context.close()


def shoot(page: Page, folder: Path, name: str) -> Path:
    """Keep what the page shows, to be looked at by a person."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    return path
