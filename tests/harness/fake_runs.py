"""Jobs for the fake chip, and a watcher that keeps what it is told."""

from harness.cases import Case
from harness.device.request import DeviceRequest, FakeOptions, Fault
from harness.environment import Environment
from harness.measure.policy import MeasurePolicy
from harness.record import Record
from harness.store.folder import RunInfo
from harness.worker.job import Job
from harness.worker.supervisor import Watcher
from kernels.op import problem

CASES = tuple(
    Case(problem=made, impl=impl, roles=("training",))
    for made in (
        problem("copy", "bf16", N=1024),
        problem("rms_norm", "bf16", T=16, H=64),
        problem("swiglu", "bf16", T=16, F=64),
        problem("gemm", "bf16", M=64, N=64, K=64),
    )
    for impl in ("torch", "triton")
)


def fake_job(
    faults: dict[str, Fault] | None = None, case_timeout_s: float = 60.0, run_id: str = "run"
) -> Job:
    options = FakeOptions(faults=tuple((faults or {}).items()))
    return Job(
        run=RunInfo(
            run_id=run_id,
            suite="quick",
            model="llama3_8b",
            device="fake",
            chip="",
            num_cases=len(CASES),
            started_at="2026-01-02T03:04:05+00:00",
        ),
        device=DeviceRequest(name="fake", fake=options),
        policy=MeasurePolicy(case_timeout_s=case_timeout_s),
        cases=CASES,
        config_yaml="suite: {name: quick}\n",
    )


class KeepingWatcher(Watcher):
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.environments: list[Environment] = []

    def on_environment(self, environment: Environment) -> None:
        self.environments.append(environment)

    def on_record(self, record: Record) -> None:
        self.records.append(record)
