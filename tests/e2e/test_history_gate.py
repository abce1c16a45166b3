"""`chipscale gate base=history:`: a head against the stored runs of a branch, on the fake chip."""

import json
import shutil
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.codec import from_json
from harness.gate_result import GateResult, State
from harness.run import RUNS
from harness.store.folder import RECORDS, RUN, run_folders
from harness.store.gate_folder import GATE

FAKE = ("device=fake", "suite.ops=[rms_norm,swiglu]", "suite.roofs=[]", "impls=[torch]")
QUIET = ("tracking.enabled=false",)
FASTER = "rms_norm.bf16.forward"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six nights of one chip; all stored times of one case are half of what the chip takes now."""
    results = tmp_path_factory.mktemp("history")
    assert main(["run", *FAKE, *QUIET, "projection=false", f"results_dir={results}"]) == 0
    (first,) = run_folders(results / RUNS)
    for night in range(1, 7):
        copy = first.path.with_name(f"2026010{night}T030000-quick-llama3_8b-night")
        shutil.copytree(first.path, copy)
        info = json.loads((copy / RUN).read_text(encoding="utf-8"))
        info |= {"run_id": copy.name, "started_at": f"2026-01-0{night}T03:00:00+00:00"}
        (copy / RUN).write_text(json.dumps(info), encoding="utf-8")
        lines = []
        for line in (copy / RECORDS).read_text(encoding="utf-8").splitlines():
            data = json.loads(line)
            problem = data["case"]["problem"]
            if (problem["op"], problem["mode"]) == ("rms_norm", "forward"):
                measured = data["measurement"]
                measured["samples_s"] = [one / 2 for one in measured["samples_s"]]
            lines.append(json.dumps(data))
        (copy / RECORDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(first.path)
    return results


def test_what_is_slower_than_all_stored_runs_is_told_and_fails_where_that_is_asked_for(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gate", "base=history:", *FAKE, *QUIET, f"results_dir={stored}"]
    assert main([*arguments, "gate.strict_stored=true"]) == 3
    shown = capsys.readouterr().out
    assert "3 rounds" in shown
    (path,) = (stored / "gates").glob(f"*/{GATE}")
    result = from_json(GateResult, path.read_text(encoding="utf-8"))
    assert not result.is_interleaved
    assert not result.is_advisory
    assert result.base.label == "history: (6 runs)"
    slower = result.of(State.REGRESSED)
    assert {case.case_id.partition("[")[0] for case in slower} == {FASTER}
    assert all(case.change is not None and case.change.value > 0.8 for case in slower)
    assert result.of(State.UNCHANGED)


def test_a_head_that_is_wrong_is_invalid_and_not_missing(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = set((stored / "gates").glob("*"))
    arguments = ["gate", "base=history:", *FAKE, *QUIET, f"results_dir={stored}"]
    assert main([*arguments, "device.fake.faults={swiglu: wrong}"]) == 4
    capsys.readouterr()
    (folder,) = set((stored / "gates").glob("*")) - gates
    result = from_json(GateResult, (folder / GATE).read_text(encoding="utf-8"))
    invalid = result.of(State.INVALID)
    assert {case.op for case in invalid} == {"swiglu"}
    assert all("Process 1: incorrect" in case.reason for case in invalid)
    assert {case.op for case in result.of(State.REGRESSED)} == {"rms_norm"}


def test_a_history_of_too_few_runs_is_no_baseline(
    stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gate", "base=history:last=3", *FAKE, *QUIET, f"results_dir={stored}"]
    assert main(arguments) == 5
    assert "has 3 runs of suite quick on this machine" in capsys.readouterr().err
    assert main(["gate", "base=history:brnch=main", *FAKE, f"results_dir={stored}"]) == 2
    assert "base=history:brnch=main: no such key of a history. Did you mean 'branch'?" in (
        capsys.readouterr().err
    )
