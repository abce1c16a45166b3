"""The samples of every case, and what is told beside them, as the JSON that rows open from.

Samples are kept as 4-byte floats in base64: 1,000,000 of them take 5.3 MB, as JSON numbers 20 MB.
"""

import base64
import json
import math
from collections.abc import Sequence

import numpy as np

from harness.device.base import DeviceState
from harness.record import Measurement, Record, Window
from harness.report.rows import median_text, status_text
from harness.results import ResultRow, summary_of
from harness.stats import OUTLIER_MADS, Summary
from harness.units import GIGA, capacity, duration, significant

MAX_SAMPLES = 1_000_000
"""Of a page, so that it stays below 15 MB with the plots' library and a table of 2,000 cases."""
MIN_SAMPLES_PER_CASE = 100
UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))

Facts = tuple[tuple[str, str], ...]


def samples_json(rows: Sequence[ResultRow], records: Sequence[Record]) -> str:
    """An entry for each row, in their order; those without samples have facts alone."""
    last = {record.case.id: record for record in records}
    held = [last[row.case_id] for row in rows]
    num_timed = sum(record.measurement is not None for record in held)
    most = max(MIN_SAMPLES_PER_CASE, MAX_SAMPLES // max(1, num_timed))
    entries = [_entry(row, record, most) for row, record in zip(rows, held, strict=True)]
    return json.dumps(entries, allow_nan=False, separators=(",", ":"))


def _entry(row: ResultRow, record: Record, most: int) -> dict[str, object]:
    measurement = record.measurement
    entry: dict[str, object] = {"id": row.case_id, "facts": case_facts(record)}
    if measurement is None or not all(map(math.isfinite, measurement.steady_samples_s)):
        what = "no samples" if measurement is None else "samples that are no numbers"
        return entry | {"summary": f"{status_text(row)}: {what}. {row.reason}".strip()}
    summary = summary_of(measurement.steady_samples_s)
    every = -(-len(measurement.samples_s) // most)
    unit, size = _unit(summary.median)
    kept = np.asarray(measurement.samples_s[::every], dtype="<f4")
    reach = OUTLIER_MADS * summary.mad or math.inf
    ends = (summary.median - reach, summary.median + reach)
    return entry | {
        "summary": _summary_text(row, measurement, summary, every),
        "unit": unit,
        "scale": 1 / size,
        "every": every,
        "samples": base64.b64encode(kept.tobytes()).decode("ascii"),
        "median": summary.median,
        "low": summary.low,
        "high": summary.high,
        "fence": ends if math.isfinite(reach) else (summary.minimum, summary.maximum),
        "windows": [_window(window) for window in measurement.windows],
    }


def _unit(seconds: float) -> tuple[str, float]:
    """The largest unit that the time is at least one of."""
    return next((unit for unit in UNITS if seconds >= unit[1]), UNITS[-1])


def _summary_text(row: ResultRow, measurement: Measurement, summary: Summary, every: int) -> str:
    total = len(measurement.samples_s)
    words = [f"{total:,} samples", f"{summary.num_outliers:,} outliers"]
    if measurement.num_throttled:
        words.append(f"{measurement.num_throttled:,} while throttled")
    text = f"{', '.join(words)}; median {median_text(row) or duration(summary.median)}."
    if every > 1:
        text += f" One in {every} is drawn; records.jsonl has all."
    return text


def _window(window: Window) -> tuple[int, int, str]:
    return window.num_samples, int(window.state.is_throttled), state_text(window.state)


def state_text(state: DeviceState) -> str:
    """`1.98 GHz, 61 C, 650 W, throttled (thermal)`: what the device tells, and nothing else."""
    words = []
    if state.clock_hz is not None:
        words.append(f"{significant(state.clock_hz / GIGA)} GHz")
    if state.temperature_c is not None:
        words.append(f"{significant(state.temperature_c)} C")
    if state.power_w is not None:
        words.append(f"{significant(state.power_w)} W")
    if state.throttle_reasons:
        kind = "throttled" if state.is_throttled else "limited"
        words.append(f"{kind} ({', '.join(state.throttle_reasons)})")
    return ", ".join(words)


def case_facts(record: Record) -> Facts:
    """What a record says beyond its line in the table, as names and values."""
    facts = [("case", record.case.id), ("roles", ", ".join(record.case.roles))]
    if record.launches:
        facts.append(("launched with", "; ".join(str(choice) for choice in record.launches)))
    if record.correctness is not None and record.correctness.outputs:
        worst = max(output.relative_error for output in record.correctness.outputs)
        facts.append(("relative error", significant(worst) if math.isfinite(worst) else str(worst)))
    if record.measurement is not None:
        facts += _measured_facts(record.measurement)
    facts += [("started", record.started_at), ("protocol", record.protocol_hash)]
    return tuple((name, value) for name, value in facts if value)


def _measured_facts(measurement: Measurement) -> Facts:
    peak = measurement.peak_memory_bytes
    ends = (state_text(measurement.state_before), state_text(measurement.state_after))
    return (
        ("stopped since", measurement.stop_reason),
        ("timer", f"{measurement.timer}, in steps of {duration(measurement.timer_resolution_s)}"),
        ("launch", measurement.launch),
        ("cache", measurement.cache),
        ("peak memory", capacity(peak) if peak else ""),
        ("device", " to ".join(dict.fromkeys(end for end in ends if end))),
        ("not alone", ", ".join(measurement.foreign_processes)),
    )
