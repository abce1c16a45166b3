"""What this session's times are held against: a file of pytest-benchmark, or a run's folder."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.device.base import DeviceInfo
from harness.environment import Environment
from harness.results import accepted
from harness.run import find_run
from harness.store.pytest_benchmark import read_benchmark_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One time of the baseline."""

    fullname: str
    """The test; empty for a case of a run."""
    case_id: str
    """The case; empty for a function."""
    median_s: float
    protocol_hash: str
    is_ours: bool
    """Our engine measured it; else pytest-benchmark did, on the host with warm caches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """All times of it, and where they were measured."""

    label: str
    """As the user named it."""
    entries: tuple[Entry, ...]
    environment: Environment | None
    """None for a file that holds nothing of ours."""
    processor: str
    commit: str

    def of(self, fullname: str, case_id: str) -> Entry | None:
        """The time of that test, else of that case; None where it has neither."""
        by_name = (one for one in self.entries if one.fullname == fullname)
        by_case = (one for one in self.entries if case_id and one.case_id == case_id)
        return next(by_name, None) or next(by_case, None)


def read_baseline(name: str, results_dir: Path) -> Baseline:
    """The baseline of that name: a file where there is one, else a run.

    Raises:
        RecordError: when there is neither, or it cannot be read.
    """
    path = Path(name)
    return (
        _of_file(path) if path.is_file() or path.suffix == ".json" else _of_run(name, results_dir)
    )


def _of_file(path: Path) -> Baseline:
    file = read_benchmark_file(path)
    return Baseline(
        label=str(path),
        entries=tuple(
            Entry(
                fullname=one.fullname,
                case_id=one.case_id,
                median_s=one.median_s,
                protocol_hash=one.protocol_hash,
                is_ours=one.is_ours,
            )
            for one in file.benchmarks
        ),
        environment=file.environment,
        processor=file.processor,
        commit=file.commit,
    )


def _of_run(name: str, results_dir: Path) -> Baseline:
    folder = find_run(name, results_dir)
    environment = folder.environment
    return Baseline(
        label=name,
        entries=tuple(
            Entry(
                fullname="",
                case_id=record.case.id,
                median_s=statistics.median(record.measurement.steady_samples_s),
                protocol_hash=record.protocol_hash,
                is_ours=True,
            )
            for record in accepted(folder.records(), folder.roofs)
            if record.measurement is not None
        ),
        environment=environment,
        processor=environment.processor,
        commit=environment.commit,
    )


def chip_differences(base: Environment, here: Environment) -> tuple[str, ...]:
    """Why times of the two say nothing of each other's code, as `driver: 570.1 and 575.2`.

    Versions of torch and triton are no such reason: that one of them is slower is worth a failure.
    """
    ours, theirs = here.device, base.device
    parts = (
        ("chip", theirs.name, ours.name),
        ("its memory", _memory(theirs), _memory(ours)),
        ("its compute units", theirs.num_compute_units, ours.num_compute_units),
        ("driver", _version(theirs.driver), _version(ours.driver)),
        ("runtime", theirs.runtime, ours.runtime),
        ("processor", base.processor, here.processor),
        ("cores", base.num_cores, here.num_cores),
        ("OMP_NUM_THREADS", _threads(base), _threads(here)),
    )
    return tuple(f"{name}: {one} and {other}" for name, one, other in parts if one != other)


def _memory(device: DeviceInfo) -> str:
    """In whole GiB: hosts tell a little more or less after each start."""
    return "unknown" if device.memory_bytes is None else f"{device.memory_bytes / 2**30:.0f} GiB"


def _version(driver: str) -> str:
    """Major and minor: patches are of every week."""
    return ".".join(driver.split(".")[:2])


def _threads(environment: Environment) -> str:
    return dict(environment.variables).get("OMP_NUM_THREADS", "unset")


def version_differences(base: Environment, here: Environment) -> tuple[str, ...]:
    """What may explain a difference, as `torch: 2.12 and 2.13`."""
    names = tuple(dict.fromkeys(name for name, _ in (*base.versions, *here.versions)))
    pairs: Sequence[tuple[str, str, str]] = (
        ("Python", base.python, here.python),
        *((name, base.version(name), here.version(name)) for name in names),
    )
    return tuple(f"{name}: {one} and {other}" for name, one, other in pairs if one != other)
