"""Files that pytest-benchmark writes, read as results: ours with records, others with times alone.

`--benchmark-json`, `--benchmark-save` and `--benchmark-autosave` write them. Where `chip_benchmark`
measured, the file also holds the environment and, for each case of an op, its record; the record's
samples are those of the file, so that they stand there once.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.codec import from_data, to_data
from harness.environment import Environment
from harness.errors import RecordError
from harness.record import Record

KEY = "chipscale"
"""What `chip_benchmark` adds to the file, and to each of its benchmarks, stands under this key."""
SCHEMA_VERSION = 1
"""Of what stands there; raised when the meaning of a field changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBenchmark:
    """One benchmark of a file."""

    fullname: str
    """The test: `benchmarks/test_gemm.py::test_gemm[torch]`."""
    median_s: float
    samples_s: tuple[float, ...] = ()
    """Empty where the file was saved without `--benchmark-save-data`."""
    is_ours: bool = False
    """`chip_benchmark` measured it: its time is of the device, not of a call on the host."""
    case_id: str = ""
    """Of the case of an op; empty for a function."""
    protocol_hash: str = ""
    """Of the case, or of how a function was measured."""
    record: Record | None = None
    """Of a case, where the file holds its samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkFile:
    """All that a file holds."""

    path: Path
    benchmarks: tuple[StoredBenchmark, ...]
    environment: Environment | None = None
    """None for a file without any benchmark of ours."""
    policy: Mapping[str, Any] | None = None
    """By which ours were measured, as `harness/measure/policy.py` has it."""
    device: str = ""
    """That was asked for: cpu, cuda, fake ..."""
    processor: str = ""
    """As pytest-benchmark names it."""
    commit: str = ""
    made_at: str = ""

    @property
    def records(self) -> tuple[Record, ...]:
        """Of the cases of ops, in the order they were measured."""
        return tuple(one.record for one in self.benchmarks if one.record is not None)

    @property
    def medians_s(self) -> tuple[tuple[str, float], ...]:
        """Case id, or the test's name where it measured none, and the median time."""
        return tuple((one.case_id or one.fullname, one.median_s) for one in self.benchmarks)


def without_samples(record: Record) -> dict[str, Any]:
    """The record as it stands in a file beside its samples."""
    assert record.measurement is not None, "only what has a time is in such a file"
    measurement = replace(record.measurement, samples_s=(), windows=())
    data = to_data(replace(record, measurement=measurement))
    assert isinstance(data, dict)
    return data


def read_benchmark_file(path: Path) -> BenchmarkFile:
    """The file's benchmarks.

    Raises:
        RecordError: when it is not there, no such file, damaged, or of a newer chipscale.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}.") from None
    except ValueError as error:
        raise RecordError(
            f"{path}: not JSON ({error}), so nothing can be read of it. `pytest "
            "--benchmark-json=FILE` writes such a file."
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("benchmarks"), list):
        raise RecordError(
            f"{path}: it has no list `benchmarks`, so pytest-benchmark did not write it. `pytest "
            "--benchmark-json=FILE` writes such a file."
        )
    ours = data.get(KEY)
    if isinstance(ours, dict) and int(ours.get("schema_version", 0)) > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema version {ours['schema_version']} is newer than this chipscale reads "
            f"({SCHEMA_VERSION}). Update chipscale."
        )
    environment = ours.get("environment") if isinstance(ours, dict) else None
    return BenchmarkFile(
        path=path,
        benchmarks=tuple(
            _benchmark(one, f"{path}: benchmarks[{place}]")
            for place, one in enumerate(data["benchmarks"])
        ),
        environment=None
        if environment is None
        else from_data(Environment, environment, f"{path}: {KEY}.environment"),
        policy=ours.get("policy") if isinstance(ours, dict) else None,
        device=str(ours.get("device", "")) if isinstance(ours, dict) else "",
        processor=_processor(data.get("machine_info")),
        commit=_commit(data.get("commit_info")),
        made_at=str(data.get("datetime", "")),
    )


def _benchmark(data: Any, where: str) -> StoredBenchmark:
    if not isinstance(data, dict) or not isinstance(data.get("fullname"), str):
        raise RecordError(f"{where}: it has no `fullname`, so its test is unknown.")
    stats = _mapping(data.get("stats"))
    samples_s = tuple(_time_s(value, f"{where}.stats.data") for value in stats.get("data") or ())
    median_s = stats.get("median")
    if median_s is None:
        if not samples_s:
            raise RecordError(f"{where}: it has neither a median nor samples.")
        median_s = statistics.median(samples_s)
    ours = _mapping(data.get(KEY))
    record = ours.get("record")
    read = None
    if record is not None and samples_s:
        bare = from_data(Record, record, f"{where}.{KEY}.record")
        assert isinstance(bare, Record)
        if bare.measurement is not None:
            read = replace(bare, measurement=replace(bare.measurement, samples_s=samples_s))
    return StoredBenchmark(
        fullname=data["fullname"],
        median_s=_time_s(median_s, f"{where}.stats.median"),
        samples_s=samples_s,
        is_ours=bool(ours),
        case_id=str(ours.get("case_id", "")),
        protocol_hash=str(ours.get("protocol_hash", "")),
        record=read,
    )


def _time_s(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RecordError(f"{where}: {value!r} is no time in seconds.")
    return float(value)


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, dict) else {}


def _commit(info: Any) -> str:
    """Empty where pytest-benchmark found none, which it says in words."""
    found = str(_mapping(info).get("id") or "")
    return "" if found in ("unversioned", "unknown") else found


def _processor(machine: Any) -> str:
    """The processor's name as pytest-benchmark has it, through py-cpuinfo or the system."""
    cpu = _mapping(_mapping(machine).get("cpu"))
    return str(cpu.get("brand_raw") or cpu.get("brand") or _mapping(machine).get("processor", ""))
