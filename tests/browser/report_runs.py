"""Runs whose pages are opened in a browser: thousands of cases, old records, hostile names."""

import dataclasses
import zlib

import numpy as np

from harness.cases import Case
from harness.device.base import DeviceState
from harness.record import Measurement, Record, Status, Window
from kernels.op import Mode, problem
from tests.harness.sample_run import IMPL_FACTOR, failed_record, ok_record

OPS = (
    ("gemm", {"N": 6144, "K": 4096}, "M"),
    ("rms_norm", {"H": 4096}, "T"),
    ("swiglu", {"F": 14336}, "T"),
    ("cross_entropy", {"V": 128256}, "T"),
    ("copy", {}, "N"),
)
DTYPES = ("bf16", "fp16", "fp32")
WINDOW = 50


def noisy_measurement(plain: Measurement, seed: str, num_samples: int) -> Measurement:
    """Samples with outliers, and windows of which one in seven cases has a throttled one."""
    number = zlib.crc32(seed.encode())
    generator = np.random.default_rng(number)
    middle = float(np.median(plain.samples_s))
    samples = middle * generator.normal(1, 10 ** generator.uniform(-3, -1.3), num_samples)
    samples[generator.integers(0, num_samples, 3)] *= generator.uniform(1.5, 6)
    windows = []
    for place, first in enumerate(range(0, num_samples, WINDOW)):
        is_hot = number % 7 == 0 and place == 2
        if is_hot:
            samples[first : first + WINDOW] *= 1.3
        state = DeviceState(
            clock_hz=1.4e9 if is_hot else 1.98e9,
            temperature_c=92.0 if is_hot else 61.0,
            power_w=650.0,
            throttle_reasons=("thermal",) if is_hot else (),
            foreign_processes=("python (4711)",) if number % 11 == 0 else (),
        )
        count = min(WINDOW, num_samples - first)
        windows.append(Window(num_samples=count, seconds=count * middle, state=state))
    return dataclasses.replace(
        plain,
        samples_s=tuple(np.abs(samples).tolist()),
        windows=tuple(windows),
        launch="held",
        measured_s=1.0,
    )


def large_run(num_cases: int, num_samples: int = 300) -> tuple[Record, ...]:
    """Five ops in two modes, three types and three implementations; one in 17 cases failed."""
    records: list[Record] = []
    for size in range(1, num_cases):
        for op, axes, axis in OPS:
            for mode in (Mode.FORWARD, Mode.BACKWARD) if op != "copy" else (Mode.FORWARD,):
                for dtype in DTYPES:
                    one = problem(op, dtype, mode, **{axis: 64 * size}, **axes)
                    for impl in IMPL_FACTOR:
                        case = Case(problem=one, impl=impl, roles=("training",))
                        records.append(_record(case, len(records), num_samples))
                        if len(records) == num_cases:
                            return tuple(records)
    raise AssertionError("no such number of cases")


def _record(case: Case, number: int, num_samples: int) -> Record:
    if number % 17 == 5:
        status = (Status.UNSUPPORTED, Status.ERROR, Status.TIMEOUT)[number % 3]
        return failed_record(case, status, f"No kernel image is available for {case.id}.")
    record = ok_record(case)
    assert record.measurement is not None
    measured = noisy_measurement(record.measurement, case.id, num_samples)
    return dataclasses.replace(record, measurement=measured)
