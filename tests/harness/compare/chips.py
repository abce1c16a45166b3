"""Runs of made-up chips for the tests of comparisons, as the pipeline would have written them.

A time is the launch, and behind it the work's own roof over the efficiency of the implementation;
samples lie around it by a fixed pattern, so that every number is the same at each run of a test.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from omegaconf import OmegaConf

from harness.cases import Case
from harness.codec import to_json
from harness.compare import RunInput
from harness.config.build import run_request
from harness.config.compose import compose
from harness.config.run_work import run_work
from harness.environment import Environment
from harness.projection import Projection
from harness.record import Energy, Measurement, Record, Status
from harness.roofs import LAUNCH_OP, measured_roofs
from harness.store.folder import CONFIG, RunFolder
from harness.workload.cost import step_cost
from harness.workload.whole_step import PhaseWork
from kernels.op import problem
from tests.harness.sample_run import ok_record, sample_environment, sample_info

WIDTH = 0.004
"""From the middle to the outermost sample."""
NUM_SAMPLES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """What decides the times."""

    name: str = "alpha"
    flops_per_s: float = 100e12
    bytes_per_s: float = 1e12
    launch_s: float = 5e-6
    efficiency: Mapping[str, float] = field(
        default_factory=lambda: {"torch": 0.7, "compile": 0.75, "triton": 0.8}
    )
    lacking: Sequence[str] = ()
    """Ops, or op/implementation, that cannot run."""
    joules_per_s: float | None = None
    inputs: str = "normal"
    """Part of the protocol."""


@dataclass(frozen=True, slots=True)
class Suite:
    """What a run of it measures."""

    name: str
    model: str
    config_yaml: str
    cases: tuple[Case, ...]
    steps: tuple[PhaseWork, ...]


@lru_cache(maxsize=8)
def suite_of(*overrides: str) -> Suite:
    config = compose("run", ["device=fake", *overrides])
    request = run_request(config)
    config_yaml = OmegaConf.to_yaml(config, resolve=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(config_yaml, encoding="utf-8")
        steps = run_work(Path(folder)).steps
    return Suite(request.suite, request.model.name, config_yaml, request.cases, steps)


def seconds_of(chip: Chip, case: Case) -> float:
    """Of one run of the case."""
    cost = step_cost(case.problem)
    roof_s = max(cost.flops / chip.flops_per_s, cost.num_bytes / chip.bytes_per_s)
    return chip.launch_s + roof_s / chip.efficiency[case.impl]


def record_of(chip: Chip, case: Case, run_id: str) -> Record:
    """The case as the chip measured it."""
    base = replace(
        ok_record(case, run_id=run_id),
        cost=step_cost(case.problem),
        protocol_hash=f"hash of {chip.inputs}",
        protocol_parts=(("inputs", chip.inputs),),
    )
    if {case.problem.op, f"{case.problem.op}/{case.impl}"} & set(chip.lacking):
        return replace(
            base,
            status=Status.UNSUPPORTED,
            reason=f"No {case.impl} here.",
            measurement=None,
            correctness=None,
        )
    return replace(base, measurement=_measured(chip, case, base.measurement))


def _measured(chip: Chip, case: Case, like: Measurement | None) -> Measurement:
    assert like is not None
    middle_s = seconds_of(chip, case)
    samples_s = tuple(
        middle_s * (1 + WIDTH * ((7 * index) % 11 - 5) / 5) for index in range(NUM_SAMPLES)
    )
    energy = None
    if chip.joules_per_s is not None:
        energy = Energy(
            joules_per_run=chip.joules_per_s * middle_s,
            num_runs=10,
            seconds=1.0,
            mean_power_w=chip.joules_per_s,
        )
    return replace(like, samples_s=samples_s, energy=energy)


EMPTY = Case(problem=problem(LAUNCH_OP, "fp32", N=1), impl="torch", roles=("roof",))


def chip_input(
    chip: Chip,
    *overrides: str,
    with_launch: bool = True,
    projection: Projection | None = None,
) -> RunInput:
    """A run of the suite in the overrides, on that chip, as a comparison takes it."""
    suite = suite_of(*overrides)
    cases = (*suite.cases, EMPTY) if with_launch else suite.cases
    run_id = f"20260102T030405-{suite.name}-{suite.model}-{chip.name}"
    records = tuple(record_of(chip, case, run_id) for case in cases)
    return RunInput(
        run_id=run_id,
        suite=suite.name,
        model=suite.model,
        device="fake",
        chip=chip.name,
        started_at="2026-01-02T03:04:05+00:00",
        environment=environment_of(chip),
        records=records,
        roofs=measured_roofs(records),
        projection=projection,
        work=suite.steps,
    )


def environment_of(chip: Chip) -> Environment:
    environment = sample_environment()
    device = replace(environment.device, name=chip.name)
    return replace(environment, device=device, has_local_changes=False, warnings=())


def chip_run(root: Path, chip: Chip, *overrides: str, num_cases: int | None = None) -> RunFolder:
    """A run folder below root, with the first of the suite's cases."""
    suite = suite_of(*overrides)
    run = chip_input(chip, *overrides)
    records = run.records[:num_cases]
    info = sample_info(
        run_id=run.run_id,
        suite=suite.name,
        model=suite.model,
        chip=chip.name,
        num_cases=len(records),
        tags=(),
    )
    folder = RunFolder(root / info.run_id)
    folder.path.mkdir(parents=True)
    folder.write("run.json", info)
    folder.write("environment.json", run.environment)
    (folder.path / CONFIG).write_text(suite.config_yaml, encoding="utf-8")
    lines = "".join(to_json(record) + "\n" for record in records)
    (folder.path / "records.jsonl").write_text(lines, encoding="utf-8")
    return folder
