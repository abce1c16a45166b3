"""Gates in a results folder, for the tests of what is made of them."""

from pathlib import Path

from harness.gate_result import Arm, GateCase, GateResult, Stage, State
from harness.projection import Interval
from harness.report.gate_outputs import write_files
from harness.store.folder import RunFolder
from tests.harness.report.gate_sample import result
from tests.harness.sample_run import sample_info, sample_records, write_run


def measured_gate(results: Path) -> Path:
    """A gate of the sample run's cases, with the run folder of each side's first round."""
    records = [one for one in sample_records() if one.measurement is not None]
    path = results / "gates" / "20260102-gate"
    for role in ("base", "head"):
        made = write_run(path / "made", info=sample_info(run_id=f"{role}-run"))
        made.path.rename(path / f"{role}-1")
    (path / "made").rmdir()
    cases = []
    for record in records[:6]:
        problem = record.case.problem
        cases.append(
            GateCase(
                case_id=record.case.id,
                op=problem.op,
                impl=record.case.impl,
                dtype=problem.dtype,
                mode=str(problem.mode),
                shape=problem.shape,
                state=State.UNCHANGED,
                reason="",
                tolerance=0.03,
                tolerance_basis="the default",
                screen=Stage(
                    base_s=(1e-3, 2e-3, 3e-3),
                    head_s=(2e-3, 4e-3, 6e-3),
                    change=Interval(value=0.0, low=0.0, high=0.0),
                ),
                base_s=2e-3,
                head_s=4e-3,
            )
        )
    gate = result(
        tuple(cases),
        suite="quick",
        chip="imaginary_x1",
        base=Arm(label="main", commit="aaaaaaaa", branch="main", run_ids=("base-run",)),
        head=Arm(label="tree", commit="bbbbbbbb-dirty", branch="mine", run_ids=("head-run",)),
        pull_request="17",
    )
    write_files(gate, path)
    return path


def written(tmp_path: Path, gate: GateResult) -> RunFolder:
    path = tmp_path / "gates" / gate.gate_id
    write_files(gate, path)
    return RunFolder(path)
