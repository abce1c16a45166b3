"""The style and the scripts of every page of a report, from the files in `assets/`."""

from importlib.resources import files

ASSETS = files("harness.report") / "assets"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


STYLE = _asset("page.css")
SCRIPT = "\n".join(_asset(name) for name in ("tables.js", "samples.js", "plots.js"))
"""Needs the elements of the page, so it comes last in it; without it the tables still read."""
