"""A run of an imaginary chip for the tests of stores and reports: every status, and a projection.

Times follow a roofline of 400 TFLOP/s and 3 TB/s with 10 us of launch and 2 % of noise.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.cases import Case
from harness.codec import to_json
from harness.device.base import DeviceInfo, DeviceState
from harness.device.chip import ChipSpec
from harness.environment import Environment
from harness.measure.correctness import imagined
from harness.projection import (
    Alternative,
    Interval,
    OpShare,
    PlanChoice,
    Projection,
    ScalePoint,
    SearchSummary,
    Source,
    StepPart,
)
from harness.record import Measurement, Record, Status
from harness.store.folder import RunFolder, RunInfo
from kernels.op import Cost, Mode, Problem, Tolerance, problem

RUN_ID = "20260102T030405Z-quick-imaginary_x1-0a1b2c"
CHIP = ChipSpec(
    name="imaginary_x1",
    title="Imaginary X1",
    vendor="Imaginary",
    torch_device_type="cpu",
    match=("Imaginary X1",),
    peak_flops_per_s=(("bf16", 500e12),),
    achievable_flops_per_s=(),
    memory_bytes=96 * 2**30,
    memory_bandwidth_bytes_per_s=3.35e12,
    l2_bytes=50e6,
    scaleup_bandwidth_bytes_per_s_per_chip=450e9,
    scaleup_domain_chips=8,
    scaleout_bandwidth_bytes_per_s_per_chip=50e9,
    power_w=700,
    source="https://example.org/imaginary-x1",
    evidence="imagined",
    notes="",
)
IMPL_FACTOR = {"torch": 0.85, "compile": 0.9, "triton": 0.94}
"""The share of the roofline each implementation reaches."""


def sample_info(**changes: object) -> RunInfo:
    values: dict[str, object] = {
        "run_id": RUN_ID,
        "suite": "quick",
        "model": "llama3_8b",
        "device": "fake",
        "chip": "imaginary_x1",
        "num_cases": len(sample_records()),
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": "2026-01-02T03:06:45+00:00",
        "command": "chipscale run suite=quick device=fake",
        "tags": (("purpose", "test"),),
    }
    return RunInfo(**(values | changes))  # type: ignore[arg-type]


def sample_environment() -> Environment:
    return Environment(
        device=DeviceInfo(
            name="Imaginary X1",
            torch_device_type="cpu",
            memory_bytes=96 * 2**30,
            last_level_cache_bytes=50_000_000,
            num_compute_units=132,
            driver="1.2.3",
            runtime="virtual 1.0",
        ),
        host="node-7",
        operating_system="Linux-6.8-x86_64",
        processor="Imaginary Core 9",
        num_cores=8,
        python="3.11.7",
        versions=(("torch", "2.13.0"), ("triton", "3.7.1"), ("numpy", "2.4.0")),
        commit="0123456789abcdef0123456789abcdef01234567",
        has_local_changes=True,
        branch="main",
        variables=(("OMP_NUM_THREADS", "8"),),
        warnings=("The host's load was 6.1 on 8 cores before measuring.",),
    )


def cost_of(case_problem: Problem) -> Cost:
    """Costs near enough to the real ones for plausible numbers."""
    axes = dict(case_problem.axes)
    if case_problem.op == "gemm":
        m, n, k = axes["M"], axes["N"], axes["K"]
        return Cost(flops=2 * m * n * k, bytes_read=2 * (m * k + k * n), bytes_written=2 * m * n)
    size = int(np.prod(list(axes.values())))
    if case_problem.op == "copy":
        return Cost(flops=0, bytes_read=2 * size, bytes_written=2 * size)
    if case_problem.op == "adamw":
        return Cost(flops=12 * size, bytes_read=14 * size, bytes_written=14 * size)
    return Cost(flops=4 * size, bytes_read=2 * size, bytes_written=2 * size)


def samples_of(case: Case, cost: Cost, num_samples: int = 40) -> tuple[float, ...]:
    """Seeded by the case, so that the same case always has the same samples."""
    generator = np.random.default_rng(zlib.crc32(case.id.encode()))
    roofline_s = max(cost.flops / 400e12, cost.num_bytes / 3e12)
    median_s = roofline_s / IMPL_FACTOR.get(case.impl, 0.8) + 10e-6
    return tuple(float(value) for value in median_s * generator.normal(1, 0.02, num_samples))


def measurement_of(case: Case, cost: Cost, num_samples: int = 40) -> Measurement:
    return Measurement(
        samples_s=samples_of(case, cost, num_samples),
        timer="virtual_clock",
        timer_resolution_s=1e-9,
        cache="cold",
        flush_bytes=100_000_000,
        num_warmup=5,
        warmup_s=0.1,
        prepare_s=0.5,
        stop_reason="The interval of the median is 0.9 % of it, below the 1 % wanted.",
        peak_memory_bytes=2**30,
        state_before=DeviceState(clock_hz=1.7e9, temperature_c=55.0),
        state_after=DeviceState(clock_hz=1.7e9, temperature_c=60.0),
    )


def ok_record(case: Case, *, run_id: str = RUN_ID, num_samples: int = 40) -> Record:
    cost = cost_of(case.problem)
    tolerance = Tolerance(dtype="bf16", relative_error=1e-2, max_error=1e-1, row_error=2e-2)
    return Record(
        run_id=run_id,
        case=case,
        status=Status.OK,
        cost=cost,
        correctness=imagined((tolerance,)),
        measurement=measurement_of(case, cost, num_samples),
        started_at="2026-01-02T03:05:00+00:00",
        protocol_hash="feedface",
    )


def failed_record(case: Case, status: Status, reason: str, *, run_id: str = RUN_ID) -> Record:
    return Record(
        run_id=run_id,
        case=case,
        status=status,
        reason=reason,
        cost=cost_of(case.problem),
        started_at="2026-01-02T03:05:10+00:00",
        protocol_hash="feedface",
    )


def sample_records(run_id: str = RUN_ID) -> tuple[Record, ...]:
    """Ops in three implementations, at several sizes, with one record of each failing status."""
    problems = [
        (problem("gemm", "bf16", M=8192, N=8192, K=8192), ("roof",)),
        (problem("copy", "bf16", N=2**28), ("roof",)),
        *((problem("gemm", "bf16", M=m, N=6144, K=4096), ("training",)) for m in (1024, 4096)),
        *((problem("gemm", "bf16", M=m, N=4096, K=14336), ("training",)) for m in (1024, 4096)),
        (problem("gemm", "bf16", Mode.WGRAD, M=4096, N=6144, K=4096), ("training",)),
        *((problem("rms_norm", "bf16", T=t, H=4096), ("training",)) for t in (1024, 4096, 8192)),
        (problem("rms_norm", "bf16", Mode.BACKWARD, T=4096, H=4096), ("training",)),
        *((problem("swiglu", "bf16", T=t, F=14336), ("training",)) for t in (1024, 4096, 8192)),
        (problem("cross_entropy", "bf16", T=4096, V=128256), ("training",)),
        (problem("adamw", "fp32", N=2**26), ("training",)),
    ]
    records = [
        ok_record(Case(problem=one, impl=impl, roles=roles), run_id=run_id)
        for one, roles in problems
        for impl in IMPL_FACTOR
    ]
    attention = problem("attention", "bf16", Mode.FORWARD, "causal", B=1, S=8192, H=32, D=128)
    flash = problem("attention", "bf16", Mode.FORWARD, "causal", B=1, S=2048, H=32, D=128)
    failures = (
        (attention, "triton", Status.UNSUPPORTED, "Triton has no back-end for the virtual device."),
        (attention, "torch", Status.OUT_OF_MEMORY, "Wanted 16.0 GiB with 3.1 GiB free."),
        (attention, "compile", Status.TIMEOUT, "Not done after 60 s; the worker was stopped."),
        (flash, "triton", Status.INCORRECT, "Relative error 0.31 is above 0.01."),
        (flash, "compile", Status.ERROR, "BackendCompilerFailed: no kernel image is available."),
        (flash, "torch", Status.CRASHED, "The worker died with signal 11."),
    )
    for one, impl, status, reason in failures:
        case = Case(problem=one, impl=impl, roles=("training",))
        records.append(failed_record(case, status, reason, run_id=run_id))
    return tuple(records)


def many_records(count: int, num_samples: int = 40) -> tuple[Record, ...]:
    """That many OK records of distinct cases, for timing."""
    return tuple(
        ok_record(
            Case(
                problem=problem("gemm", "bf16", M=64 * (index + 1), N=4096, K=4096),
                impl=impl,
                roles=("training",),
            ),
            num_samples=num_samples,
        )
        for index in range(-(-count // 2))
        for impl in ("torch", "triton")
    )[:count]


def scale_point(num_chips: int) -> ScalePoint:
    efficiency = 0.42 - 0.012 * np.log2(num_chips / 8)
    tokens = 1100.0 * num_chips * float(efficiency)
    data = max(1, num_chips // 128)
    return ScalePoint(
        num_chips=num_chips,
        num_chips_used=num_chips,
        plan=PlanChoice(
            tensor=8, pipeline=min(16, max(1, num_chips // 8)), data=data, num_microbatches=16
        ),
        global_batch_sequences=max(8, num_chips // 8),
        step_time_s=Interval(value=12.0, low=11.1, high=13.4),
        tokens_per_second=Interval(value=tokens, low=0.9 * tokens, high=1.08 * tokens),
        mfu=float(efficiency),
        goodput=1 - 5e-7 * num_chips,
    )


def sample_projection(run_id: str = RUN_ID) -> Projection:
    chips = (8, 64, 512, 4096, 16384, 65536, 100_000)
    return Projection(
        model="llama3_405b",
        chip="imaginary_x1",
        cluster="imaginary_100k",
        dtype="bf16",
        sequence_length=8192,
        headline=scale_point(100_000),
        scaling=tuple(scale_point(number) for number in chips),
        parts=(
            StepPart(name="compute", seconds=8.0),
            StepPart(name="exposed tensor-parallel communication", seconds=1.6),
            StepPart(name="pipeline bubble", seconds=1.2),
            StepPart(name="exposed data-parallel communication", seconds=0.9),
            StepPart(name="optimizer", seconds=0.3),
        ),
        ops=(
            OpShare(
                op="gemm.bf16.forward",
                role="mlp down",
                seconds=0.031,
                source=Source.MEASURED,
                problem_id="gemm.bf16.forward[M=4096,N=4096,K=14336]",
            ),
            OpShare(
                op="attention.bf16.forward.causal",
                role="attention",
                seconds=0.012,
                source=Source.ROOFLINE,
                problem_id="attention.bf16.forward.causal[B=1,S=8192,H=32,D=128]",
            ),
        ),
        source_share=(
            (Source.MEASURED, 0.62),
            (Source.INTERPOLATED, 0.25),
            (Source.ROOFLINE, 0.13),
        ),
        memory_bytes_per_chip=71.5 * 2**30,
        memory_limit_bytes=96 * 2**30,
        memory_parts=(
            ("weights", 12.6 * 2**30),
            ("gradients", 12.6 * 2**30),
            ("optimizer", 6.3 * 2**30),
            ("activations", 40.0 * 2**30),
        ),
        mfu=0.256,
        hfu=None,
        interval_confidence=0.9,
        interval_basis="Sources, network efficiency and jitter are drawn together 1000 times.",
        assumptions=(
            "The network gives 80 % of its data-sheet bandwidth to large collectives.",
            "All chips run at the clocks of the measured one.",
        ),
        num_plans_considered=4211,
        run_ids=(run_id,),
    )


def sample_search() -> SearchSummary:
    """What was found beside the plan of a projection."""
    other = PlanChoice(tensor=8, pipeline=8, data=781, context=2, num_microbatches=10)
    return SearchSummary(
        num_enumerated=102_888,
        num_fitting=43_574,
        num_tied_kinds=1,
        alternatives=(
            Alternative(
                plan=other,
                step_time_s=3.58,
                tokens_per_second=17.8e6,
                slower=0.0035,
                is_tie=True,
            ),
        ),
        largest_part="pipeline bubble",
        largest_part_share=0.09,
        double_batch_gain=0.043,
    )


def write_run(
    root: Path,
    *,
    records: Sequence[Record] | None = None,
    info: RunInfo | None = None,
    projection: Projection | None = None,
) -> RunFolder:
    """A run folder below root, as the pipeline would have written it."""
    info = info or sample_info()
    records = sample_records(info.run_id) if records is None else records
    folder = RunFolder(root / info.run_id)
    folder.path.mkdir(parents=True)
    folder.write("run.json", info)
    folder.write("environment.json", sample_environment())
    (folder.path / "config.yaml").write_text("suite:\n  name: quick\n", encoding="utf-8")
    (folder.path / "cases.json").write_text("[]\n", encoding="utf-8")
    lines = "".join(to_json(record) + "\n" for record in records)
    (folder.path / "records.jsonl").write_text(lines, encoding="utf-8")
    if projection is not None:
        folder.write("projection.json", projection)
    return folder
