"""Runs whose pages are opened in a browser: thousands of cases, old records, hostile names."""

import dataclasses
import math
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


EVIL = (
    "</script><script>window.hacked = 1; alert(1)</script>",
    "<img src=x onerror='window.hacked = 1; alert(2)'>",
    "<!--<script>",
    '" onmouseover="alert(3)" x="',
    "{{constructor}} ${alert(4)} \u2028 \u0000 \u202e",
)


def hostile_run() -> tuple[Record, ...]:
    """Names and reasons that are markup, in cases with and without a time; one has no numbers."""
    records = []
    for number, evil in enumerate(EVIL):
        one = problem("gemm", "bf16", M=64 * (number + 1), N=4096, K=4096)
        case = Case(problem=one, impl=evil, roles=(evil,))
        timed = ok_record(case)
        assert timed.measurement is not None
        measured = dataclasses.replace(timed.measurement, stop_reason=evil, launch=evil)
        records.append(dataclasses.replace(timed, measurement=measured, protocol_hash=evil))
        records.append(
            failed_record(dataclasses.replace(case, impl=f"f{evil}"), Status.ERROR, evil)
        )
    first = records[0].measurement
    assert first is not None
    broken = dataclasses.replace(first, samples_s=(math.nan, math.inf, 1e-3, 0.0) * 3)
    records[0] = dataclasses.replace(records[0], measurement=broken)
    return tuple(records)


def old_run() -> tuple[Record, ...]:
    """Records as older versions wrote them: no windows, no launch, no cost, one sample."""
    cases = [
        Case(problem=problem("gemm", "bf16", M=64 * size, N=4096, K=4096), impl="torch")
        for size in (1, 2, 3)
    ]
    records = [ok_record(case) for case in cases]
    bare = dataclasses.replace(
        records[0], correctness=None, cost=None, started_at="", protocol_hash=""
    )
    assert records[1].measurement is not None
    single = dataclasses.replace(records[1].measurement, samples_s=(1e-3,))
    return bare, dataclasses.replace(records[1], measurement=single), records[2]
