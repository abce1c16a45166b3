"""The end of every benchmark: its result written down, its missed targets told."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.codec import to_json
from harness.store.disk import write_atomically


def keep(result: object, misses: Sequence[str], out: Path, console: Console) -> int:
    """Write the result as JSON, and give the exit code: 1 when a target is missed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, to_json(result) + "\n")
    console.print(f"written to {out}")
    for miss in misses:
        console.print(miss)
    return 1 if misses else 0
