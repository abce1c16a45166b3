"""The git repository that the running code belongs to: revisions, and checkouts of them."""

import contextlib
import difflib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

TIMEOUT_S = 120.0
"""For one command of git; a checkout of a large repository on a slow disk takes its time."""


class NoRepository(ConfigError):  # noqa: N818 - a state, told as one
    """A folder is in no git repository, or there is no git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a checkout stands."""

    commit: str
    branch: str
    """Empty where no branch is checked out."""
    is_dirty: bool
    """Tracked files differ from the commit."""


def git(folder: Path, *arguments: str) -> str:
    """What git prints in that folder.

    Raises:
        NoRepository: when there is no git here.
        ConfigError: with git's own words for what it refuses.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise NoRepository("git is not installed, so a revision cannot be opened.") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"`git {' '.join(arguments)}` in {folder} did not end within {TIMEOUT_S:g} s."
        ) from None
    if done.returncode:
        words = " ".join(done.stderr.split()) or f"it ended with exit code {done.returncode}"
        if "not a git repository" in words:
            raise NoRepository(f"{folder} is in no git repository.")
        raise ConfigError(f"`git {' '.join(arguments)}` in {folder}: {words}.")
    return done.stdout.strip()


def top_level(folder: Path) -> Path:
    """The root of the working tree that the folder is in.

    Raises:
        NoRepository: when it is in none.
    """
    return Path(git(folder, "rev-parse", "--show-toplevel"))


def head_of(folder: Path) -> Head | None:
    """Where the checkout stands that the folder is in; None outside a repository."""
    try:
        branch = git(folder, "rev-parse", "--abbrev-ref", "HEAD")
        return Head(
            commit=git(folder, "rev-parse", "HEAD"),
            branch="" if branch == "HEAD" else branch,
            is_dirty=bool(git(folder, "status", "--porcelain", "--untracked-files=no")),
        )
    except ConfigError:
        return None


def commit_of(repository: Path, revision: str) -> str | None:
    """The commit that a revision names; None for one that is not there."""
    if not revision or revision.startswith("-"):
        return None
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") or None
    except NoRepository:
        raise
    except ConfigError:
        return None


def near_names(repository: Path, revision: str, at_most: int = 3) -> list[str]:
    """Branches and tags whose names are nearest to that of a revision that is not there."""
    listed = git(
        repository,
        *("for-each-ref", "--format=%(refname:short)"),
        *("refs/heads", "refs/tags", "refs/remotes"),
    )
    return difflib.get_close_matches(revision, listed.splitlines(), n=at_most, cutoff=0.4)


@contextlib.contextmanager
def checkout(repository: Path, commit: str) -> Iterator[Path]:
    """A working tree of that commit in a temporary folder, gone again whatever happens.

    Raises:
        ConfigError: with git's own words where it cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="chipscale-gate-") as scratch:
        folder = Path(scratch) / "tree"
        # No hooks: they belong to the user's own checkouts, and may do anything.
        quiet = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
        try:
            git(repository, *quiet, "worktree", "add", "--detach", str(folder), commit)
            yield folder
        finally:
            with contextlib.suppress(ConfigError):
                git(repository, "worktree", "remove", "--force", str(folder))
