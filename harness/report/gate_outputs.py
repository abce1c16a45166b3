"""Everything that a gate leaves behind: files for people and for CI, and what GitHub is told."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.codec import to_json
from harness.gate_result import GateResult
from harness.report import gate_annotations, gate_junit, gate_markdown, gate_page
from harness.store.disk import storing, write_atomically
from harness.store.gate_folder import (
    GATE,
    GATE_COMMENT,
    GATE_HTML,
    GATE_JUNIT,
    GATE_MARKDOWN,
)

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
"""Where a runner names the file of the step's summary."""
ACTIONS = "GITHUB_ACTIONS"
"""`true` in every job of GitHub Actions."""


def write_outputs(
    result: GateResult,
    folder: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    tell: Callable[[str], None] = print,
) -> None:
    """Write all files of `write_files`, and tell GitHub where it runs the gate.

    Args:
        result: What the gate found.
        folder: `results/gates/<gate id>`; made where there is none.
        environment: Where `GITHUB_STEP_SUMMARY` and `GITHUB_ACTIONS` are looked up.
        tell: Takes the lines of the annotations.

    Raises:
        StorageError: when the disk does not take a file.
    """
    write_files(result, folder)
    tell_github(result, environment=environment, tell=tell)


def write_files(result: GateResult, folder: Path) -> None:
    """Write gate.json, gate.html, gate.md, gate_comment.md and junit.xml, in place of older ones.

    Raises:
        StorageError: when the disk does not take a file.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {
        GATE: to_json(result) + "\n",
        GATE_HTML: gate_page.render(result),
        GATE_MARKDOWN: gate_markdown.render(result),
        GATE_COMMENT: gate_markdown.comment(result),
        GATE_JUNIT: gate_junit.render(result),
    }
    for name, text in texts.items():
        # Half a character, as of a cut name of a file, is no UTF-8 and must not cost the verdict.
        write_atomically(folder / name, text.encode("utf-8", errors="replace"))


def tell_github(
    result: GateResult,
    *,
    environment: Mapping[str, str] = os.environ,
    tell: Callable[[str], None] = print,
) -> None:
    """Add to the step's summary where there is one, and print annotations in a job of GitHub.

    Raises:
        StorageError: when the disk does not take the summary.
    """
    summary = environment.get(STEP_SUMMARY, "")
    if summary:
        _append(Path(summary), result)
    if environment.get(ACTIONS, "") == "true":
        for line in gate_annotations.render(result):
            tell(line)


def _append(path: Path, result: GateResult) -> None:
    """Add the Markdown as far as GitHub's limit leaves room after what the step told before."""
    with storing(path):
        held_bytes = path.stat().st_size if path.exists() else 0
        room = gate_markdown.MAX_SUMMARY_BYTES - held_bytes
        if room < gate_markdown.MIN_BYTES:
            return
        text = gate_markdown.render(result, max_bytes=room, heading="## ")
        with path.open("ab") as file:
            file.write(f"\n{text}".encode("utf-8", errors="replace"))
