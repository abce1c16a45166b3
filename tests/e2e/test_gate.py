"""`chipscale gate` from the command line to its exit code, between two real revisions."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.arms.job import read_job, write_job
from harness.arms.source import running_tree
from harness.cli.main import main
from harness.codec import to_json
from harness.errors import REGRESSION_EXIT_CODE
from harness.gate_result import State
from harness.store.folder import RunFolder
from harness.store.gate_folder import GATES, GateFolder, gate_folders

EAGER = "    return torch.nn.functional.rms_norm(x, w.shape, w, EPS)\n"
SLOWED = (
    "    for _ in range(9):\n        torch.nn.functional.rms_norm(x, w.shape, w, EPS)\n" + EAGER
)
NORM = "{op: rms_norm, dtype: fp32, axes: {T: 256, H: 1024}}"
COMMON = ("suite.phases=[]", "suite.roofs=[]", "impls=[torch]", "gate.rounds=1")


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose last commit makes torch's RMS norm ten times as slow."""
    folder = tmp_path_factory.mktemp("repository")
    for part in ("harness", "kernels", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(running_tree() / part, folder / part, ignore=ignored)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=before")
    path = folder / "kernels" / "rms_norm.py"
    text = path.read_text(encoding="utf-8")
    assert EAGER in text
    path.write_text(text.replace(EAGER, SLOWED), encoding="utf-8")
    git(folder, "commit", "--quiet", "--all", "--message=slowed")
    return folder


def test_a_commit_that_slows_a_kernel_is_stopped(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "harness", "gate", "base=HEAD~1", "device=cpu", *COMMON),
            *(f"suite.problems=[{NORM}]", f"results_dir={tmp_path}", QUIET),
        ],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "GITHUB_ACTIONS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == REGRESSION_EXIT_CODE, done.stdout + done.stderr
    assert "1 regression" in done.stdout
    (folder,) = gate_folders(tmp_path / GATES)
    (case,) = folder.result.cases
    assert case.state is State.REGRESSED
    assert case.screen is not None
    assert case.confirm is not None
    assert case.change is not None
    assert case.change.value > 1.0
    assert "base=HEAD~1" not in case.reproduce
    assert f"base={folder.result.base.commit}" in case.reproduce
    assert f"--case '{case.case_id}'" in case.reproduce
    assert not folder.result.base.commit.endswith("-dirty")
    assert folder.result.base.commit != folder.result.head.commit
    assert len(folder.result.head.run_ids) == 2
    assert (folder.path / "logs" / "base-1.log").exists()
    # No worktree is left behind.
    listed = subprocess.run(
        ["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


LARGE = "{op: rms_norm, dtype: fp32, axes: {T: 65536, H: 1024}}"
FAKE = ("device=fake", f"suite.problems=[{LARGE}]", *COMMON)
QUIET = "tracking.enabled=false"


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a tree against itself."""
    folder = tmp_path_factory.mktemp("same")
    assert main(["gate", "base=tree", *FAKE, f"results_dir={folder}", QUIET]) == 0
    return folder


def test_a_tree_against_itself_passes_and_is_told_to_be_that(same: Path) -> None:
    (folder,) = gate_folders(same / GATES)
    assert [case.state for case in folder.result.cases] == [State.UNCHANGED]
    assert any("A/A" in warning for warning in folder.result.warnings)
    assert folder.result.environment_changes == ()


def test_a_stored_run_as_base_is_advice_and_is_logged(
    same: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stored run is one of the gate's own, as if it had been twice as fast."""
    (gate, *_) = gate_folders(same / GATES)
    stored = same / "runs" / "20260101T000000-fast"
    shutil.copytree(gate.path / "base-1", stored)
    (record,) = RunFolder(stored).records()
    assert record.measurement is not None
    samples = tuple(sample / 2 for sample in record.measurement.samples_s)
    faster = replace(record, measurement=replace(record.measurement, samples_s=samples))
    (stored / "records.jsonl").write_text(to_json(faster) + "\n", encoding="utf-8")
    # The head was measured before a stop, so that the gate only goes on with what it has.
    later = same / GATES / "29990101T000000-stored"
    for number in (1, 2):
        shutil.copytree(gate.path / "head-1", later / f"head-{number}")
    began = read_job(gate.path)
    tracking = ("tracking.required=true", "tracking.timeout_s=120")
    job = replace(
        began,
        gate_id=later.name,
        base=stored.name,
        base_digest=stored.name,
        overrides=(f"base={stored}", *FAKE, *tracking),
    )
    write_job(later, job)
    assert main(["gate", f"resume={later.name}", f"results_dir={same}"]) == 0
    assert "advisory" in capsys.readouterr().out
    result = GateFolder(later).result
    assert result.num_failing == 1
    assert result.is_advisory
    assert not result.is_interleaved
    assert result.cases[0].tolerance == pytest.approx(0.05)
    assert {name for name, _ in result.ui_links} == {"base", "head"}


def test_a_gate_does_not_go_on_with_other_code(
    same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gate, *_) = gate_folders(same / GATES)
    folder = tmp_path / GATES / gate.path.name
    shutil.copytree(gate.path, folder)
    write_job(folder, replace(read_job(folder), head_digest="another"))
    before = (folder / "job.json").read_bytes()
    assert main(["gate", "resume=latest", f"results_dir={tmp_path}"]) == 2
    assert "the code of the head, working tree, is not what" in capsys.readouterr().err
    assert (folder / "job.json").read_bytes() == before


def test_gates_are_listed_and_shown(same: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "list", f"results_dir={same}"]) == 0
    assert "1 regression of 1 on" in " ".join(capsys.readouterr().out.split())
    assert main(["gate", "show", "latest", f"results_dir={same}"]) == 0
    assert "rms_norm" in capsys.readouterr().out


def test_a_regression_can_be_accepted_for_a_time(
    same: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case_id = gate_folders(same / GATES)[-1].result.cases[0].case_id
    file = tmp_path / "exemptions.json"
    where = [f"results_dir={same}", f"gate.exemptions={file}"]
    assert main(["gate", "accept", case_id, *where, "--reason", "known", "--days", "30"]) == 0
    assert "until" in capsys.readouterr().out
    (written,) = json.loads(file.read_text(encoding="utf-8"))["exemptions"]
    assert written["case_id"] == case_id
    assert written["reason"] == "known"
    assert 1.0 < written["limit"] < 1.5
    assert main(["gate", "accept", case_id[:-1], *where, "--reason", "x", "--days", "3"]) == 2
    assert f"Did you mean '{case_id}'?" in capsys.readouterr().err
