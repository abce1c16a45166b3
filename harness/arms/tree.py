"""The code that an arm's processes import, and the proof that they import it."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.arms import git
from harness.arms.source import Revision, Tree, Wheel
from harness.arms.wheel import unpacked
from harness.errors import ConfigError
from harness.worker.lock import LOCK_DIR_VARIABLE

PARTS = ("harness", "kernels", "configs")
"""The packages that decide what an arm measures."""
SUFFIXES = frozenset({".py", ".yaml", ".csv"})
VERIFY_TIMEOUT_S = 120.0
_WHERE = "import configs, harness, kernels; print(harness.__file__, kernels.__file__, sep='\\n')"
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTree:
    """An arm that can be measured."""

    name: str
    """`base` or `head`."""
    label: str
    root: Path
    """The folder of its `harness`, `kernels` and `configs`."""
    overlay: Path | None = None
    """A folder that comes before it and before what is installed."""
    commit: str = ""
    """As `Arm.commit`."""
    branch: str = ""
    digest: str
    """Of its code, and of the wheel that overlays it."""

    @property
    def is_dirty(self) -> bool:
        """Tracked files differ from the commit."""
        return self.commit.endswith("-dirty")

    def environment(self, lock_folder: Path) -> dict[str, str]:
        """The environment of its processes, which lock devices in that folder."""
        paths = [self.overlay, self.root] if self.overlay else [self.root]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            # Else `python -m` would look into the folder it is started in first.
            "PYTHONSAFEPATH": "1",
            LOCK_DIR_VARIABLE: str(lock_folder),
        }


def digest_of(root: Path) -> str:
    """A hash over the code below that folder: equal digests measure the same thing."""
    found = hashlib.sha256()
    for part in PARTS:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                found.update(str(path.relative_to(root)).encode() + b"\0")
                found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


@contextlib.contextmanager
def opened(
    name: str, source: Revision | Wheel | Tree, tree: Path, lock_folder: Path
) -> Iterator[ArmTree]:
    """The arm, with its code in place until the end.

    Args:
        name: `base` or `head`.
        source: what the user named.
        tree: the running code, which a wheel of something else overlays.
        lock_folder: as `ArmTree.environment`.

    Raises:
        ConfigError: when it cannot be opened, or its processes would import other code.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, Revision):
            root = stack.enter_context(git.checkout(source.repository, source.commit))
            inside = tree.resolve().relative_to(source.repository.resolve())
            arm = ArmTree(
                name=name,
                label=source.label,
                root=_with_parts(name, source.label, root / inside),
                commit=source.commit,
                branch=source.label if _is_branch(source) else "",
                digest=digest_of(root / inside),
            )
        elif isinstance(source, Tree):
            arm = _of_tree(name, source.label, source.path)
        else:
            arm = _of_wheel(name, source, stack.enter_context(unpacked(source.path)), tree)
        verify(arm, source, lock_folder)
        yield arm


def _is_branch(source: Revision) -> bool:
    name = source.label.removeprefix("git:")
    try:
        git.git(source.repository, "show-ref", "--verify", "--quiet", f"refs/heads/{name}")
    except ConfigError:
        return False
    return True


def _of_tree(name: str, label: str, path: Path) -> ArmTree:
    at = git.head_of(path)
    dirty = "-dirty" if at is not None and at.is_dirty else ""
    return ArmTree(
        name=name,
        label=label,
        root=path,
        commit="" if at is None else at.commit + dirty,
        branch="" if at is None else at.branch,
        digest=digest_of(path),
    )


def _of_wheel(name: str, source: Wheel, folder: Path, tree: Path) -> ArmTree:
    if source.said.is_own:
        root = _with_parts(name, source.label, folder)
        return ArmTree(name=name, label=source.label, root=root, digest=digest_of(folder))
    below = _of_tree(name, source.label, tree)
    wheel_digest = hashlib.sha256(source.path.read_bytes()).hexdigest()[:16]
    return ArmTree(
        name=name,
        label=source.label,
        root=tree,
        overlay=folder,
        commit=below.commit,
        branch=below.branch,
        digest=f"{below.digest}+{wheel_digest}",
    )


def _with_parts(name: str, label: str, root: Path) -> Path:
    for part in PARTS:
        if not (root / part / "__init__.py").is_file():
            raise ConfigError(f"{name}: {label} has no {part}, so it is no chipscale to measure.")
    return root


def verify(arm: ArmTree, source: Revision | Wheel | Tree, lock_folder: Path) -> None:
    """See that a process of the arm imports the arm's code, and the wheel that overlays it.

    Raises:
        ConfigError: when it imports something else.
    """
    found = [Path(line).resolve() for line in _asked(arm, lock_folder, _WHERE).splitlines()]
    strangers = [path for path in found if not path.is_relative_to(arm.root.resolve())]
    if strangers or len(found) != 2:
        raise ConfigError(
            f"{arm.name}: its processes import {strangers[0] if strangers else 'nothing'} in place "
            f"of the code in {arm.root}. See what puts it in front: a .pth file or a finder of an "
            "editable install."
        )
    if isinstance(source, Wheel) and arm.overlay is not None:
        version = _asked(arm, lock_folder, _VERSION, source.said.name).strip()
        if version != source.said.version:
            raise ConfigError(
                f"{arm.name}: its processes see {source.said.name} {version} in place of the "
                f"wheel's {source.said.version}."
            )


def _asked(arm: ArmTree, lock_folder: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=arm.root,
        env=arm.environment(lock_folder),
        capture_output=True,
        text=True,
        timeout=VERIFY_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ConfigError(
            f"{arm.name}: {arm.label} does not import here: {words[-1] if words else 'no message'}"
        )
    return done.stdout
