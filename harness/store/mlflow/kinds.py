"""What a folder may hold, and which layout says what MLflow shall hold of it (pure).

A new kind of folder is one more line of KINDS and a layout of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.errors import RecordError
from harness.store.folder import PROJECTION, RUN, SERVING, RunFolder
from harness.store.gate_folder import GATE, GATES
from harness.store.mlflow.gate_layout import base_content, gate_content, head_content
from harness.store.mlflow.layout import RunContent, run_content
from harness.store.mlflow.projection_layout import projection_content
from harness.store.mlflow.serving_layout import serving_content

Layout = Callable[[RunFolder, Mapping[str, str]], RunContent]
"""Of a folder and the vendors by chip. Raises RecordError when the folder cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of result: each file of it is one MLflow run; a gate's is three."""

    name: str
    """As people are told of it."""
    file: str
    """A folder that has this file holds one."""
    home: str
    """The folder of the results folder where they lie."""
    layout: Layout


KINDS = (
    Kind(name="run", file=RUN, home="runs", layout=run_content),
    Kind(name="projection", file=PROJECTION, home="projections", layout=projection_content),
    Kind(name="projection of serving", file=SERVING, home="projections", layout=serving_content),
    Kind(name="gate", file=GATE, home=GATES, layout=gate_content),
    Kind(name="base", file=GATE, home=GATES, layout=base_content),
    Kind(name="head", file=GATE, home=GATES, layout=head_content),
)


def kinds_of(folder: RunFolder) -> tuple[Kind, ...]:
    """What the folder holds: a run may have its projection beside it.

    Raises:
        RecordError: when it holds nothing that MLflow could take.
    """
    found = tuple(kind for kind in KINDS if (folder.path / kind.file).is_file())
    if not found:
        files = ", ".join(dict.fromkeys(kind.file for kind in KINDS))
        raise RecordError(f"{folder.path}: none of {files} there, so it is no folder of results")
    return found
