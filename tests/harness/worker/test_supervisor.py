"""Whatever a case does, it costs that case alone and leaves a record that says so."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import Case
from harness.codec import to_json
from harness.device.request import DeviceRequest, Fault
from harness.environment import Environment
from harness.errors import ConfigError, RecordError
from harness.measure.policy import Values
from harness.measure.protocol import protocol_hash
from harness.record import Status
from harness.store.folder import CASES as CASES_FILE
from harness.store.folder import ENVIRONMENT, RECORDS, RunFolder
from harness.store.records import cut_incomplete_line
from harness.worker.__main__ import main as worker_main
from harness.worker.supervisor import LOG, supervise
from kernels.op import Mode, problem
from tests.harness.fake_runs import CASES, KeepingWatcher, fake_job


def statuses_of(folder: Path, op: str) -> set[Status]:
    records = RunFolder(folder).records()
    return {record.status for record in records if record.case.problem.op == op}


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in found.split()]


def test_every_case_has_a_record_in_order(tmp_path: Path) -> None:
    watcher = KeepingWatcher()
    supervise(fake_job(), tmp_path, watcher)
    records = RunFolder(tmp_path).records()
    assert tuple(record.case for record in records) == CASES
    assert {record.status for record in records} == {Status.OK}
    assert tuple(watcher.records) == records
    assert watcher.environments[0].device.name == "chipscale fake chip"
    assert RunFolder(tmp_path).environment.device.torch_device_type == "fake"


def test_implementations_of_a_problem_share_a_protocol_hash(tmp_path: Path) -> None:
    supervise(fake_job(), tmp_path, KeepingWatcher())
    hashes: dict[str, set[str]] = {}
    for record in RunFolder(tmp_path).records():
        hashes.setdefault(record.case.problem.id, set()).add(record.protocol_hash)
    assert all(len(found) == 1 for found in hashes.values())
    assert len(set.union(*hashes.values())) == len(hashes)


def test_a_case_with_a_cache_of_its_own_is_measured_apart_by_its_own_rules(tmp_path: Path) -> None:
    cold = tuple(case for case in CASES if case.problem.op == "copy")
    hot = tuple(replace(case, cache="hot") for case in cold)
    job = fake_job()
    job = replace(job, cases=cold + hot, run=replace(job.run, num_cases=4))
    supervise(job, tmp_path, KeepingWatcher())
    records = RunFolder(tmp_path).records()
    assert [record.case for record in records] == [*cold, *hot]
    measured = [record.measurement for record in records if record.measurement is not None]
    assert [one.cache for one in measured] == ["cold", "cold", "hot", "hot"]
    assert [bool(one.flush_bytes) for one in measured] == [True, True, False, False]
    hashes = [record.protocol_hash for record in records]
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_a_crash_leaves_the_lines_it_happened_in(tmp_path: Path) -> None:
    supervise(fake_job({"rms_norm": Fault.SEGFAULT}), tmp_path, KeepingWatcher())
    for op in ("copy", "swiglu", "gemm"):
        assert statuses_of(tmp_path, op) == {Status.OK}
    assert statuses_of(tmp_path, "rms_norm") == {Status.CRASHED}
    log = (tmp_path / LOG).read_text(encoding="utf-8")
    assert "Fatal Python error: Segmentation fault" in log
    assert "fake_workbench.py" in log


def test_a_case_that_needs_more_memory_than_there_is_says_how_much(tmp_path: Path) -> None:
    job = fake_job()
    tiny = replace(job.device, fake=replace(job.device.fake, memory_bytes=2**10))
    supervise(replace(job, device=tiny), tmp_path, KeepingWatcher())
    records = RunFolder(tmp_path).records()
    assert {record.status for record in records} == {Status.OUT_OF_MEMORY}
    for record in records:
        assert record.reason.startswith("needs at least ")
        assert record.reason.endswith(" for inputs and outputs, 0.000977 MiB are free")


def test_a_record_has_the_parts_of_its_protocol_and_the_sets_of_inputs_it_had(
    tmp_path: Path,
) -> None:
    job = fake_job()
    supervise(
        replace(job, policy=replace(job.policy, num_input_sets=3)), tmp_path, KeepingWatcher()
    )
    for record in RunFolder(tmp_path).records():
        assert record.protocol_hash == protocol_hash(record.protocol_parts)
        assert dict(record.protocol_parts)["cache"] == "cold, 3 sets of inputs"
        assert record.measurement is not None
        assert record.measurement.num_input_sets == 3


def test_an_op_that_zeros_make_no_sense_for_is_unsupported(tmp_path: Path) -> None:
    job = fake_job()
    routed = Case(
        problem=problem("moe_route", "bf16", Mode.FORWARD, "softmax", T=64, E=16, K=2), impl="torch"
    )
    policy = replace(job.policy, inputs=Values.ZEROS)
    supervise(replace(job, policy=policy, cases=(routed,)), tmp_path, KeepingWatcher())
    (record,) = RunFolder(tmp_path).records()
    assert record.status is Status.UNSUPPORTED
    assert record.reason == (
        "moe_route is not measured with inputs=zeros: what is chosen follows from which logits "
        "are largest, and zeros are all alike."
    )


def test_a_second_time_measures_only_what_is_missing(tmp_path: Path) -> None:
    supervise(fake_job(), tmp_path, KeepingWatcher())
    path = tmp_path / RECORDS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # Three whole lines, and a fourth that a crash cut short.
    path.write_text("".join(lines[:3]) + lines[3][:40], encoding="utf-8")
    watcher = KeepingWatcher()
    supervise(fake_job(), tmp_path, watcher)
    assert tuple(record.case for record in watcher.records) == CASES[3:]
    assert tuple(record.case for record in RunFolder(tmp_path).records()) == CASES


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_killing_the_supervisor_ends_its_child_and_keeps_what_was_measured(tmp_path: Path) -> None:
    job_file = tmp_path / "job.json"
    job_file.write_text(to_json(fake_job({"gemm": Fault.HANG})), encoding="utf-8")
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.worker", str(job_file), str(out)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if (out / RECORDS).exists() and len(RunFolder(out).records()) == len(CASES) - 2:
            break
        time.sleep(0.1)
    (child,) = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    assert tuple(record.case for record in RunFolder(out).records()) == CASES[:-2]


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    job = fake_job()
    wanted = DeviceRequest(name="npu")
    with pytest.raises(ConfigError, match=r"device\.name: 'npu' was asked for"):
        supervise(
            type(job)(run=job.run, device=wanted, policy=job.policy, cases=job.cases),
            tmp_path,
            KeepingWatcher(),
        )


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("a", ""), ("a\nb\n", "a\nb\n")],
)
def test_only_a_line_cut_short_is_removed(tmp_path: Path, text: str, kept: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(text, encoding="utf-8")
    cut_incomplete_line(path)
    assert path.read_text(encoding="utf-8") == kept


def test_the_bare_host_worker_needs_no_hydra_and_no_mlflow(tmp_path: Path) -> None:
    job_file = tmp_path / "cases.json"
    job_file.write_text(to_json(fake_job()), encoding="utf-8")
    # Modules set to None cannot be imported; the child inherits this through the environment.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('hydra', 'omegaconf', 'mlflow', 'pandas', 'rich', 'plotly', 'scipy',\n"
        "             'yaml', 'filelock'):\n"
        "    sys.modules[name] = None\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "harness.worker", str(job_file), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(CASES)} ok" in done.stdout
    assert (tmp_path / "out" / CASES_FILE).exists()
    assert RunFolder(tmp_path / "out").info.run_id.startswith("run-")


def test_two_hosts_with_one_cases_file_make_two_runs(tmp_path: Path) -> None:
    job_file = tmp_path / "cases.json"
    job_file.write_text(to_json(fake_job()), encoding="utf-8")
    for host in ("a", "b"):
        assert worker_main([str(job_file), str(tmp_path / host / "OUT")]) == 0
    first, second = (RunFolder(tmp_path / host / "OUT").info for host in ("a", "b"))
    assert first.run_id != second.run_id
    # The same folder again is the same run, with nothing left to do.
    assert worker_main([str(job_file), str(tmp_path / "a" / "OUT")]) == 0
    assert RunFolder(tmp_path / "a" / "OUT").info.run_id == first.run_id
    assert len(RunFolder(tmp_path / "a" / "OUT").records()) == len(CASES)


def test_a_folder_does_not_take_records_of_other_cases(tmp_path: Path) -> None:
    supervise(fake_job(), tmp_path, KeepingWatcher())
    other = replace(fake_job(), cases=CASES[:2])
    with pytest.raises(RecordError, match="has other cases than the one asked for"):
        supervise(other, tmp_path, KeepingWatcher())


def begun(folder: Path) -> RunFolder:
    """A run that three records were made of."""
    supervise(fake_job(), folder, KeepingWatcher())
    path = folder / RECORDS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3]), encoding="utf-8")
    return RunFolder(folder)


def test_a_later_command_does_not_go_on_with_a_run_in_another_environment(tmp_path: Path) -> None:
    run = begun(tmp_path)
    environment = run.environment
    device = environment.device
    for changes, told in (
        ({"device": replace(device, driver="590")}, "driver 590"),
        ({"device": replace(device, uuid="other")}, "device UUID other"),
        ({"versions": (("torch", "1.0"),)}, r"versions torch 1\.0"),
        ({"commit": "1a2b"}, "commit 1a2b"),
    ):
        run.write(ENVIRONMENT, replace(environment, **changes))
        with pytest.raises(RecordError, match=f"was begun with {told}, and it is to go on with"):
            supervise(fake_job(), tmp_path, KeepingWatcher())
        assert len(run.records()) == 3


def test_a_run_goes_on_where_its_device_is_read_with_something_else(tmp_path: Path) -> None:
    run = begun(tmp_path)
    device = replace(run.environment.device, telemetry="NVML 575", memory_bytes=1)
    run.write(ENVIRONMENT, replace(run.environment, device=device))
    supervise(fake_job(), tmp_path, KeepingWatcher())
    assert len(run.records()) == len(CASES)


class Changing(KeepingWatcher):
    """Changes what the run was begun with, once its first worker is up."""

    def __init__(self, folder: Path, change: Callable[[Environment], Environment]) -> None:
        super().__init__()
        self._run = RunFolder(folder)
        self._change = change
        self.notices: list[str] = []

    def on_notice(self, sentence: str) -> None:
        self.notices.append(sentence)

    def on_environment(self, environment: Environment) -> None:
        if not self.environments:
            self._run.write(ENVIRONMENT, self._change(environment))
        super().on_environment(environment)


def test_a_commit_made_during_a_run_does_not_end_it_and_is_told_once(tmp_path: Path) -> None:
    def change(environment: Environment) -> Environment:
        return replace(environment, commit="1a2b", warnings=("The host was busy.",))

    watcher = Changing(tmp_path, change)
    # Two crashes, and so three workers.
    supervise(fake_job({"rms_norm": Fault.SEGFAULT}), tmp_path, watcher)
    assert len(watcher.environments) == 3
    assert len(RunFolder(tmp_path).records()) == len(CASES)
    (notice,) = watcher.notices
    assert notice.startswith("The commit was 1a2b when the run began and ")
    kept = RunFolder(tmp_path).environment
    assert kept.warnings == ("The host was busy.", notice)
    assert kept.commit == "1a2b"


def test_a_driver_that_changed_during_a_run_ends_it(tmp_path: Path) -> None:
    def change(environment: Environment) -> Environment:
        return replace(environment, device=replace(environment.device, driver="590"))

    told = "begun with driver 590, and its worker was started again with"
    with pytest.raises(RecordError, match=told):
        supervise(fake_job({"rms_norm": Fault.SEGFAULT}), tmp_path, Changing(tmp_path, change))


def test_the_bare_host_worker_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.worker", str(tmp_path / "no.json"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_case_begins_after_the_time_given_and_a_second_call_goes_on(tmp_path: Path) -> None:
    supervise(fake_job(), tmp_path, KeepingWatcher(), within_s=0)
    assert RunFolder(tmp_path).records() == ()
    supervise(fake_job(), tmp_path, KeepingWatcher())
    assert len(RunFolder(tmp_path).records()) == len(CASES)


def test_a_bare_host_compiles_ahead_and_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "cases.json"
    plan.write_text(to_json(fake_job({"copy": Fault.ERROR})), encoding="utf-8")
    arguments = [str(plan), str(tmp_path / "out")]
    assert worker_main([*arguments, "--compile-first", "2", "--within", "0.001"]) == 5
    shown = capsys.readouterr().out
    assert "compiled ahead: 0 of 4 cases in 0 processes" in shown
    assert "out of time with 0 under way" in shown
    assert "8 cases are left; the same command goes on." in shown
    assert worker_main([*arguments, "--compile-first", "2"]) == 4
    assert "copy.bf16.forward[N=1024]/torch: error, RuntimeError" in capsys.readouterr().out
    assert len(RunFolder(tmp_path / "out").records()) == len(CASES)
