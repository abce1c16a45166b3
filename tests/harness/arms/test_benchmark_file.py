"""A file of pytest-benchmark as a base."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.arms.benchmark_file import run_of_file, suite_overrides
from harness.arms.source import StoredRun, parse_source, running_tree
from harness.cases import Case
from harness.codec import to_data
from harness.config.gate_request import compose_gate, gate_request, of_stored
from harness.errors import RecordError
from harness.measure.policy import Cache, MeasurePolicy
from harness.record import Record
from harness.store.pytest_benchmark import without_samples
from kernels.op import Mode, problem
from tests.harness.sample_run import many_records, sample_environment

CASES = (
    Case(problem=problem("gemm", "bf16", M=64, N=32, K=16), impl="torch"),
    Case(problem=problem("gemm", "bf16", M=64, N=32, K=16), impl="triton"),
    Case(
        problem=problem("scaled_gemm", "fp8", Mode.FORWARD, "row", M=64, N=32, K=16),
        impl="torch",
        cache="hot",
    ),
)
POLICY = MeasurePolicy(timeout_s=0.25, cache=Cache.HOT)


def records() -> tuple[Record, ...]:
    (record,) = many_records(1)
    return tuple(replace(record, case=case) for case in CASES)


def file_of(path: Path, **changes: Any) -> Path:
    """A file of the three cases, as the plugin writes it."""
    ours = {
        "schema_version": 1,
        "environment": to_data(sample_environment()),
        "device": "fake",
        "policy": to_data(POLICY),
    }
    benchmarks = []
    for record in records():
        assert record.measurement is not None
        benchmarks.append(
            {
                "fullname": f"test_a.py::{record.case.id}",
                "stats": {"median": 1e-3, "data": list(record.measurement.samples_s)},
                "chipscale": {"case_id": record.case.id, "record": without_samples(record)},
            }
        )
    path.write_text(json.dumps({"benchmarks": benchmarks, "chipscale": ours | changes}))
    return path


def test_its_records_are_those_of_a_run_and_are_kept_once(tmp_path: Path) -> None:
    path = file_of(tmp_path / "base.json")
    folder = run_of_file(path, tmp_path)
    assert folder.records() == records()
    assert folder.environment == sample_environment()
    written = (folder.path / "run.json").stat().st_mtime_ns
    assert run_of_file(path, tmp_path) == folder
    assert (folder.path / "run.json").stat().st_mtime_ns == written


def test_the_head_measures_the_same_cases_by_the_same_rules(tmp_path: Path) -> None:
    path = file_of(tmp_path / "base.json")
    base = parse_source("base", str(path), tmp_path, running_tree())
    assert isinstance(base, StoredRun)
    assert base.label == base.folder.path.name  # Another content is another base for resume=.
    overrides = of_stored(base.folder, [*base.overrides, f"base={path}"])
    request = gate_request(compose_gate(overrides), overrides)
    assert {case.id for case in request.run.cases} == {case.id for case in CASES}
    assert request.run.policy == POLICY
    assert request.run.device.name == "fake"
    assert request.run.suite == "benchmarks"


def test_a_problem_with_two_implementations_is_one_entry() -> None:
    (problems,) = (one for one in suite_overrides(CASES) if one.startswith("suite.problems"))
    assert problems.count("axes") == 2
    assert "impls:[torch,triton]" in problems


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": None}, "by which rules"),
        ({"environment": None}, "no samples of a case"),
        ({"policy": {"timeout": 1}}, "chipscale.policy"),
    ],
)
def test_a_file_that_is_no_base_is_refused_and_nothing_is_kept(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = file_of(tmp_path / "base.json", **changes)
    with pytest.raises(RecordError, match=words) as caught:
        run_of_file(path, tmp_path)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
