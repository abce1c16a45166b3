"""A run takes the roofs of the latest search on its own device, and no other."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import ROOF_ROLE, Case
from harness.device.request import DeviceRequest
from harness.environment import Environment
from harness.measure.policy import Cache, MeasurePolicy
from harness.record import Record
from harness.roof_source import roofs_for
from harness.store.folder import CASES, ENVIRONMENT, RunFolder
from harness.worker.job import Job
from kernels.op import problem
from tests.harness.sample_run import ok_record, sample_environment, sample_info, write_run

POLICY = MeasurePolicy()


def search_records(run_id: str, num_problems: int = 8) -> tuple[Record, ...]:
    cases = (
        Case(
            problem=problem("gemm", "bf16", M=512 * size, N=4096, K=4096),
            impl="triton",
            roles=(ROOF_ROLE,),
        )
        for size in range(1, num_problems + 1)
    )
    return tuple(ok_record(case, run_id=run_id) for case in cases)


def run_of(
    root: Path,
    run_id: str,
    suite: str,
    records: tuple[Record, ...],
    policy: MeasurePolicy = POLICY,
    environment: Environment | None = None,
    ended_at: str = "2026-01-02T03:06:45+00:00",
) -> RunFolder:
    info = sample_info(run_id=run_id, suite=suite, ended_at=ended_at)
    folder = write_run(root, records=records, info=info)
    cases = tuple(record.case for record in records)
    folder.write(CASES, Job(run=info, device=DeviceRequest(), policy=policy, cases=cases))
    folder.write(ENVIRONMENT, environment or sample_environment())
    return folder


def quick(root: Path) -> RunFolder:
    return run_of(root, "9-quick", "quick", search_records("9-quick", num_problems=1))


def test_a_run_without_a_search_takes_the_latest_one(tmp_path: Path) -> None:
    searches = [
        run_of(tmp_path, run_id, "roofs", search_records(run_id))
        for run_id in ("1-roofs", "2-roofs")
    ]
    roofs = roofs_for(quick(tmp_path), searches)
    (bf16,) = roofs.roofs
    assert bf16.run_id == "2-roofs"
    assert bf16.is_searched
    assert roofs.peak("bf16") == bf16.value


def test_a_run_of_roofs_stands_on_its_own(tmp_path: Path) -> None:
    earlier = run_of(tmp_path, "1-roofs", "roofs", search_records("1-roofs"))
    own = run_of(tmp_path, "2-roofs", "roofs_cpu", search_records("2-roofs", num_problems=2))
    (bf16,) = roofs_for(own, [earlier]).roofs
    assert bf16.run_id == "2-roofs"


ENVIRONMENT_NOW = sample_environment()


@pytest.mark.parametrize(
    "environment",
    [
        replace(ENVIRONMENT_NOW, device=replace(ENVIRONMENT_NOW.device, name="Imaginary X2")),
        replace(ENVIRONMENT_NOW, device=replace(ENVIRONMENT_NOW.device, uuid="another")),
        replace(ENVIRONMENT_NOW, host="node-8"),
        replace(ENVIRONMENT_NOW, versions=(("torch", "2.14.0"), ("triton", "3.7.1"))),
        replace(ENVIRONMENT_NOW, versions=(("torch", "2.13.0"), ("triton", "3.8.0"))),
    ],
    ids=["device", "uuid", "host", "torch", "triton"],
)
def test_a_search_elsewhere_or_with_other_versions_is_no_roof(
    tmp_path: Path, environment: Environment
) -> None:
    other = run_of(tmp_path, "1-roofs", "roofs", search_records("1-roofs"), environment=environment)
    (bf16,) = roofs_for(quick(tmp_path), [other]).roofs
    assert bf16.run_id == "9-quick"


def test_a_chip_with_a_number_of_its_own_is_known_on_any_host(tmp_path: Path) -> None:
    device = replace(ENVIRONMENT_NOW.device, uuid="u-1")
    there = replace(ENVIRONMENT_NOW, device=device, host="node-8")
    search = run_of(tmp_path, "1-roofs", "roofs", search_records("1-roofs"), environment=there)
    here = replace(ENVIRONMENT_NOW, device=device)
    own = run_of(tmp_path, "9-quick", "quick", search_records("9-quick", 1), environment=here)
    (bf16,) = roofs_for(own, [search]).roofs
    assert bf16.run_id == "1-roofs"


def test_a_search_that_was_stopped_or_went_by_other_rules_is_no_roof(tmp_path: Path) -> None:
    stopped = run_of(tmp_path, "1-roofs", "roofs", search_records("1-roofs"), ended_at="")
    hot = run_of(
        tmp_path,
        "2-roofs",
        "roofs",
        search_records("2-roofs"),
        policy=MeasurePolicy(cache=Cache.HOT),
    )
    careful = run_of(
        tmp_path,
        "3-roofs",
        "roofs",
        search_records("3-roofs"),
        policy=MeasurePolicy(timeout_s=60.0),
    )
    own = quick(tmp_path)
    assert roofs_for(own, [stopped, hot]).roofs[0].run_id == "9-quick"
    # How long is sampled makes a time surer, not another.
    assert roofs_for(own, [careful]).roofs[0].run_id == "3-roofs"


def test_a_run_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    good = run_of(tmp_path, "1-roofs", "roofs", search_records("1-roofs"))
    broken = run_of(tmp_path, "2-roofs", "roofs", search_records("2-roofs"))
    (broken.path / ENVIRONMENT).write_text("{", encoding="utf-8")
    assert roofs_for(quick(tmp_path), [good, broken]).roofs[0].run_id == "1-roofs"
