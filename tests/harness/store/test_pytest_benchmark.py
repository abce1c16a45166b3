"""Files of pytest-benchmark as results."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.codec import to_data
from harness.errors import RecordError
from harness.record import Record
from harness.store.pytest_benchmark import read_benchmark_file, without_samples
from tests.harness.sample_run import many_records, sample_environment


def plain(**changes: Any) -> dict[str, Any]:
    return {
        "fullname": "test_a.py::test_a",
        "stats": {"median": 2.0, "data": [1.0, 2.0, 3.0]},
    } | changes


def write(path: Path, *benchmarks: dict[str, Any], **changes: Any) -> Path:
    head = {
        "machine_info": {"cpu": {"brand_raw": "Imaginary Core 9"}},
        "commit_info": {"id": "abc"},
        "datetime": "2026-01-02T03:04:05+00:00",
    }
    path.write_text(json.dumps(head | {"benchmarks": benchmarks} | changes))
    return path


def ours(record: Record) -> dict[str, Any]:
    assert record.measurement is not None
    return {
        "fullname": "test_a.py::test_gemm",
        "stats": {"median": 1e-3, "data": list(record.measurement.samples_s)},
        "chipscale": {
            "case_id": record.case.id,
            "protocol_hash": record.protocol_hash,
            "record": without_samples(record),
        },
    }


def test_a_file_of_others_has_times_by_test(tmp_path: Path) -> None:
    file = read_benchmark_file(write(tmp_path / "a.json", plain()))
    (one,) = file.benchmarks
    assert (one.median_s, one.samples_s, one.is_ours) == (2.0, (1.0, 2.0, 3.0), False)
    assert file.medians_s == (("test_a.py::test_a", 2.0),)
    assert (file.processor, file.commit, file.environment) == ("Imaginary Core 9", "abc", None)


def test_a_file_without_samples_has_medians(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", plain(stats={"median": 0.5}))
    assert read_benchmark_file(path).medians_s == (("test_a.py::test_a", 0.5),)


def test_records_come_back_as_they_were_but_for_their_windows(tmp_path: Path) -> None:
    (record,) = many_records(1)
    environment = sample_environment()
    path = write(
        tmp_path / "a.json",
        ours(record),
        plain(),
        chipscale={"schema_version": 1, "environment": to_data(environment)},
    )
    file = read_benchmark_file(path)
    assert file.records == (record,)
    assert file.environment == environment
    assert [name for name, _ in file.medians_s] == [record.case.id, "test_a.py::test_a"]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"stats": {"median": 1.0}}, "no `fullname`"),
        (plain(stats={}), "neither a median nor samples"),
        (plain(stats={"median": "fast"}), "'fast' is no time"),
        (plain(stats={"median": 1.0, "data": [1.0, -1.0]}), "-1.0 is no time"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    tmp_path: Path, broken: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "a.json", broken)
    with pytest.raises(RecordError, match=words) as caught:
        read_benchmark_file(path)
    assert f"{path}: benchmarks[0]" in str(caught.value)
