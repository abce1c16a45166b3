"""The cases of an arm, made by its own command line, and parts of them for fresh rounds."""

import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.arms.tree import ArmTree
from harness.cases import Case
from harness.codec import from_data
from harness.errors import ConfigError, RecordError
from harness.store.disk import write_atomically

PLAN_TIMEOUT_S = 300.0
"""Composing takes seconds; a cold file system of a cluster takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An arm's cases file."""

    path: Path
    cases: tuple[Case, ...]

    @property
    def case_ids(self) -> tuple[str, ...]:
        """In the order they are measured."""
        return tuple(case.id for case in self.cases)


def make_plan(
    arm: ArmTree,
    overrides: Sequence[str],
    config_dirs: Sequence[Path],
    path: Path,
    lock_folder: Path,
) -> Plan:
    """Have the arm write its cases file.

    Args:
        arm: whose command line it is.
        overrides: of `chipscale run`, the same for both arms.
        config_dirs: folders of the user's own configuration.
        path: the file.
        lock_folder: as `ArmTree.environment`.

    Raises:
        ConfigError: with the arm's own words when it refuses, as one that is too old does.
    """
    dirs = [text for one in config_dirs for text in ("--config-dir", str(one.resolve()))]
    command = [sys.executable, "-m", "harness", "run", *dirs, *overrides, f"plan={path}"]
    try:
        done = subprocess.run(
            command,
            cwd=arm.root,
            env=arm.environment(lock_folder),
            capture_output=True,
            text=True,
            timeout=PLAN_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{arm.name}: {arm.label} did not write its cases within {PLAN_TIMEOUT_S:g} s."
        ) from None
    if done.returncode or not path.exists():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1].removeprefix("chipscale: ") if lines else "it did not say why"
        raise ConfigError(
            f"{arm.name}: {arm.label} cannot make its cases, being of another version or taking "
            f"other keys: {said}"
        )
    return read_plan(path, arm.name)


def read_plan(path: Path, name: str) -> Plan:
    """The plan in that file; of the rest of the file nothing is asked, for it may be another's.

    Raises:
        ConfigError: when its cases are of a chipscale that this one cannot read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        cases = from_data(tuple[Case, ...], data["cases"], str(path))
    except (json.JSONDecodeError, KeyError, TypeError, RecordError) as error:
        raise ConfigError(
            f"{name}: its cases cannot be read ({error}); run the gate with the newer of the two."
        ) from None
    return Plan(path=path, cases=cases)


def part_of(plan: Plan, case_ids: Collection[str], path: Path) -> Plan | None:
    """A plan of those cases alone, in their order; None where the arm has none of them."""
    data = json.loads(plan.path.read_text(encoding="utf-8"))
    kept = [index for index, case in enumerate(plan.cases) if case.id in case_ids]
    if not kept:
        return None
    data["cases"] = [data["cases"][index] for index in kept]
    data["run"]["num_cases"] = len(kept)
    write_atomically(path, json.dumps(data, separators=(",", ":")) + "\n")
    return Plan(path=path, cases=tuple(plan.cases[index] for index in kept))
