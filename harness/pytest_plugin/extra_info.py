"""What stands beside the samples in pytest-benchmark's files."""

from typing import TYPE_CHECKING, Any

from harness.codec import to_data
from harness.environment import Environment
from harness.fingerprint import fingerprint
from harness.record import Measurement, Record
from harness.results import ResultRow
from harness.roofline import Roofline
from harness.stats import summarize
from harness.store.pytest_benchmark import KEY, SCHEMA_VERSION, without_samples

if TYPE_CHECKING:
    from harness.pytest_plugin.chip_session import ChipSession


def chip_info(environment: Environment) -> dict[str, Any]:
    """The chip, for people and for comparing: that of another one differs somewhere."""
    device = environment.device
    return {
        "name": device.name,
        "memory_bytes": device.memory_bytes,
        "compute_units": device.num_compute_units,
        "driver": device.driver,
        "runtime": device.runtime,
        "versions": dict(environment.versions),
        "fingerprint": fingerprint(environment),
    }


def of_measurement(measurement: Measurement, environment: Environment) -> dict[str, Any]:
    """How it was measured, and what to know before building on it."""
    summary = summarize(measurement.steady_samples_s)
    return {
        "chip": environment.device.name,
        "timer": measurement.timer,
        "timer_resolution_s": measurement.timer_resolution_s,
        "launch": str(measurement.launch),
        "cache": str(measurement.cache),
        "median_low_s": summary.low,
        "median_high_s": summary.high,
        "throttled": measurement.is_throttled,
        "throttled_samples": measurement.num_throttled,
        "short_for_timer": measurement.is_short,
        "other_programs": list(measurement.foreign_processes),
        "stop_reason": measurement.stop_reason,
        "energy_j": None if measurement.energy is None else measurement.energy.joules_per_run,
    }


def of_record(record: Record, row: ResultRow, roofs: Roofline) -> dict[str, Any]:
    """Which case it was, and its rates; the share of a roof where one is known."""
    return {
        "case_id": record.case.id,
        "op": row.op,
        "impl": row.impl,
        "dtype": row.dtype,
        "mode": row.mode,
        "shape": row.shape,
        "protocol_hash": record.protocol_hash,
        "rate": row.rate,
        "flops_per_s": row.flops_per_s,
        "bytes_per_s": row.bytes_per_s,
        "bound": None if row.bound is None else str(row.bound),
        "roof_share": row.roof_share,
        "roof": None if row.roof_share is None else roofs.title,
    }


def add_ours(output: dict[str, Any], session: "ChipSession") -> None:
    """Add to a file of pytest-benchmark what reads back as records."""
    engine = session.opened
    assert engine is not None
    output[KEY] = {
        "schema_version": SCHEMA_VERSION,
        "environment": to_data(engine.environment),
        "device": engine.device_name,
        "policy": to_data(engine.policy),
    }
    for benchmark in output["benchmarks"]:
        identity = session.identities.get(benchmark["fullname"])
        if identity is None:
            continue
        record = session.records.get(benchmark["fullname"])
        benchmark[KEY] = {
            "case_id": identity.case_id,
            "protocol_hash": identity.protocol_hash,
            "record": None if record is None else without_samples(record),
        }
