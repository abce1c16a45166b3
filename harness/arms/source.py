"""What `base=` and `head=` name: a revision, a wheel, a checkout, a stored run or a history.

A new kind is a class here, a line in `parse_source`, and a branch in `tree.py` or `stored.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import harness
from harness.arms import git
from harness.arms.benchmark_file import overrides_of, run_of_file
from harness.arms.wheel import WheelName, read_wheel
from harness.errors import ConfigError, RecordError
from harness.history.choosing import HistoryQuery, query_of
from harness.run import RUNS, find_run
from harness.store.folder import RUN, RunFolder, run_folders

WORKING_TREE = "tree"
"""As `head=` is by default: the code that is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A commit of the repository that the running code belongs to."""

    label: str
    repository: Path
    commit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel of chipscale, or of something that it uses, as a triton."""

    label: str
    path: Path
    said: WheelName


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A folder that holds `harness` and `kernels`."""

    label: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run that was measured earlier; it takes no turns, so it is a weaker witness."""

    label: str
    folder: RunFolder
    overrides: tuple[str, ...] = ()
    """What makes its cases, where no suite does: of a file of pytest-benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHistory:
    """The runs of a branch, of many nights; a weaker witness, for the same reason."""

    label: str
    store: str
    """`history` for the run folders here, `mlflow` for those that MLflow has."""
    query: HistoryQuery


Source = Revision | Wheel | Tree | StoredRun | StoredHistory


def running_tree() -> Path:
    """The folder of the code that is running."""
    return Path(harness.__file__).resolve().parents[1]


def parse_source(key: str, text: str, results_dir: Path, tree: Path) -> Source:
    """What the text names.

    `tree` (or `.`) is the running code. Else a file that ends in `.whl`, a folder with a checkout
    or a run, a revision of the repository, or a run's id are tried, in that order; `git:`,
    `wheel:`, `tree:` and `run:` before it say which is meant. `history:branch=main` and
    `mlflow:branch=main` are the stored runs of a branch.

    Args:
        key: `base` or `head`, for errors.
        text: as the user wrote it; a name that ends in `.json` is a file of pytest-benchmark.
        results_dir: where runs are.
        tree: the folder of the running code, whose repository has the revisions.

    Raises:
        ConfigError: when nothing of that name is there, with the nearest names.
        RecordError: when a run that is meant cannot be read.
    """
    kind, colon, rest = text.partition(":")
    kind = kind if colon else ""
    if not text.strip():
        raise ConfigError(
            f"{key}: it is empty. Name a git revision as {key}=main, a wheel, a folder or a run."
        )
    if kind in ("history", "mlflow"):
        words = [word for word in rest.split(",") if word]
        return StoredHistory(label=text, store=kind, query=query_of(words, f"{key}={kind}:"))
    if kind == "git":
        return _revision(key, text, rest, tree, results_dir)
    if kind == "wheel":
        return _wheel(text, Path(rest))
    if kind == "run":
        return StoredRun(label=rest, folder=_checked(key, find_run(rest, results_dir)))
    if kind == "tree":
        return _tree(key, text, Path(rest))
    if text in (WORKING_TREE, "."):
        return Tree(label="working tree", path=tree)
    path = Path(text)
    if path.suffix == ".whl":
        return _wheel(text, path)
    if path.suffix == ".json":
        folder = run_of_file(path, results_dir)
        return StoredRun(label=folder.path.name, folder=folder, overrides=overrides_of(folder))
    if (path / RUN).is_file():
        return StoredRun(label=path.name, folder=_checked(key, RunFolder(path)))
    if path.is_dir() and (path.is_absolute() or "/" in text):
        return _tree(key, text, path)
    return _revision_or_run(key, text, tree, results_dir)


def _revision_or_run(key: str, text: str, tree: Path, results_dir: Path) -> Source:
    try:
        commit = git.commit_of(tree, text)
    except git.NoRepository:
        commit = None
    if commit is not None:
        return Revision(label=text, repository=git.top_level(tree), commit=commit)
    matching = [one for one in run_folders(results_dir / RUNS) if text in one.path.name]
    if matching or text == "latest":
        folder = find_run(text, results_dir)
        return StoredRun(label=folder.path.name, folder=_checked(key, folder))
    return _revision(key, text, text, tree, results_dir)


def _revision(key: str, label: str, name: str, tree: Path, results_dir: Path) -> Revision:
    try:
        commit = git.commit_of(tree, name)
        if commit is not None:
            return Revision(label=label, repository=git.top_level(tree), commit=commit)
        near = git.near_names(tree, name)
    except git.NoRepository as error:
        raise ConfigError(
            f"{key}: '{name}' is no file, folder or run of {results_dir / RUNS}, and as a git "
            f"revision it needs a repository: {error} Name a wheel, a folder with a checkout, or "
            "a run; or start chipscale from a clone."
        ) from None
    meant = f"Near are {', '.join(near)}. " if near else ""
    raise ConfigError(
        f"{key}: '{name}' is no revision of the repository of {tree}, and no wheel, folder or run "
        f"of {results_dir / RUNS}. {meant}In a shallow clone, `git fetch --unshallow` brings what "
        "is missing; `chipscale list runs` shows runs."
    )


def _wheel(label: str, path: Path) -> Wheel:
    return Wheel(label=label, path=path, said=read_wheel(path))


def _tree(key: str, label: str, path: Path) -> Tree:
    for name in ("harness", "kernels", "configs"):
        if not (path / name / "__init__.py").is_file():
            raise ConfigError(
                f"{key}: {path} has neither run.json, as a run has, nor {name}/__init__.py, as a "
                "checkout of chipscale has."
            )
    return Tree(label=label, path=path.resolve())


def _checked(key: str, folder: RunFolder) -> RunFolder:
    """The run, which can be read and has records.

    Raises:
        RecordError: when it cannot, or has none.
    """
    info = folder.info
    if not folder.has_records:
        raise RecordError(f"{key}: run {info.run_id} has no record yet, so it is no baseline.")
    return folder
