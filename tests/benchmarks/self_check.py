"""`make bench-self`: what the harness costs and whether it can be trusted twice, as a table.

The same suite is measured twice, each time by a process of its own, on the fake chip and on this
machine's device; what the two say is held against each other and against what was asked for.

    python -m tests.benchmarks.self_check [--devices fake auto] [KEY=VALUE ...]

Writes results/bench/self.json. Exits with 1 when the harness takes longer for a case than it may.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.codec import to_json
from harness.device.open import is_accelerator
from harness.device.request import DeviceRequest
from harness.environment import num_usable_cores
from harness.errors import CASE_FAILED_EXIT_CODE
from harness.record import Record, Status
from harness.run import RUNS
from harness.stats import ratio_interval, summarize
from harness.store.folder import CASES, run_folders, write_atomically
from harness.units import duration
from harness.wall_time import wall_time_of
from harness.worker.job import read_job

OUT = Path("results/bench/self.json")
AGREEMENT = 0.01
"""Two medians of one case that are closer than this agree."""
MAX_OVERHEAD_S = 0.010
"""Of the harness itself, for each case on the fake chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """Two runs of the same suite on the same device, in processes of their own."""

    device: str
    """Its name."""
    num_cases: int
    """Cases with a time in both runs."""
    share_within_1_percent: float
    """Cases whose two medians differ by less than 1 %."""
    share_within_interval: float
    """Cases whose ratio is 1 within its 95 % interval."""
    median_difference: float
    """The slower over the faster, less 1."""
    largest_difference: float
    asked_half_width: float
    median_half_width: float
    share_as_sure_as_asked: float
    """Cases whose interval is as narrow as asked for; the others ran into a limit."""
    overhead_per_case_s: float
    """What the harness itself takes: neither the device, nor compiling, inputs or references."""
    measured_share: float
    """Of the wall time, in the second run, which finds everything compiled."""
    measured_share_once_compiled: float
    time_parts: tuple[tuple[str, float], ...]
    """Seconds of the second run."""


def check(
    first: Sequence[Record], second: Sequence[Record], device: str, half_width: float
) -> SelfCheck:
    """The two runs held against each other."""
    before, after = _samples(first), _samples(second)
    pairs = [(before[case], after[case]) for case in before if case in after]
    assert pairs, "two runs of one suite have a case in common"
    medians = [(statistics.median(one), statistics.median(other)) for one, other in pairs]
    differences = [max(pair) / min(pair) - 1 for pair in medians]
    intervals = [ratio_interval(one, other) for one, other in pairs]
    widths = [summarize(samples).relative_half_width for pair in pairs for samples in pair]
    wall_time = wall_time_of(second)
    assert wall_time is not None, "records of today say when they ended"
    return SelfCheck(
        device=device,
        num_cases=len(pairs),
        share_within_1_percent=_share(one <= AGREEMENT for one in differences),
        share_within_interval=_share(low <= 1 <= high for low, high in intervals),
        median_difference=statistics.median(differences),
        largest_difference=max(differences),
        asked_half_width=half_width,
        median_half_width=statistics.median(widths),
        share_as_sure_as_asked=_share(width <= half_width for width in widths),
        overhead_per_case_s=wall_time.overhead_per_case_s,
        measured_share=wall_time.measured_share,
        measured_share_once_compiled=wall_time.measured_share_once_compiled,
        time_parts=wall_time.parts,
    )


def _share(answers: Iterable[bool]) -> float:
    return statistics.mean(map(float, answers))


def _samples(records: Sequence[Record]) -> dict[str, tuple[float, ...]]:
    return {
        record.case.id: record.measurement.steady_samples_s
        for record in records
        if record.status is Status.OK and record.measurement is not None
    }


def measured_twice(device: str, overrides: Sequence[str]) -> SelfCheck:
    """Measure the suite in two processes, one after the other, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(2):
            # Two fake chips of one seed are equal to the last digit, which would prove nothing.
            own = [f"device.fake.seed={seed}"] if device == "fake" else []
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "harness", "run", "suite=quick", f"device={device}"),
                    *("projection=false", "tracking.enabled=false", f"results_dir={folder}"),
                    *own,
                    *overrides,
                ],
                check=False,
                stdout=subprocess.DEVNULL,
            )
            # A case that failed has no time to compare; the others do.
            if done.returncode not in (0, CASE_FAILED_EXIT_CODE):
                raise SystemExit(done.returncode)
        first, second = run_folders(Path(folder) / RUNS)
        policy = read_job(second.path / CASES).policy
        return check(
            first.records(),
            second.records(),
            device=second.environment.device.name,
            half_width=policy.relative_half_width,
        )


def _shortened(device: str) -> tuple[str, ...]:
    """What makes two runs end in three minutes, and leaves what is asked of them as it is."""
    request = DeviceRequest(name=device)
    if device == "fake" or is_accelerator(request):
        return ()
    # Eager code alone, since compiling takes minutes; and without the roofs, whose references in
    # fp64 take longer than all other cases.
    return ("impls=[torch]", "suite.roofs=[]")


def table(checks: Sequence[SelfCheck]) -> Table:
    """A column for each device."""
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("measured twice")
    for one in checks:
        shown.add_column(one.device, justify="right", overflow="fold")
    lines = {
        "cases with a time in both": lambda one: str(one.num_cases),
        "medians that agree within 1 %": lambda one: f"{one.share_within_1_percent:.0%}",
        "medians equal within their interval": lambda one: f"{one.share_within_interval:.0%}",
        "difference, median and largest": lambda one: (
            f"{one.median_difference:.2%}, {one.largest_difference:.2%}"
        ),
        "half of the interval, asked and median": lambda one: (
            f"{one.asked_half_width:.2%}, {one.median_half_width:.2%}"
        ),
        "cases as sure as asked": lambda one: f"{one.share_as_sure_as_asked:.0%}",
        "harness itself, per case": lambda one: duration(one.overhead_per_case_s),
        "time in which the device is measured": lambda one: f"{one.measured_share:.0%}",
        "  without compiling": lambda one: f"{one.measured_share_once_compiled:.0%}",
    }
    for name, text in lines.items():
        shown.add_row(name, *map(text, checks))
    for place, (name, _) in enumerate(checks[0].time_parts):
        seconds = (duration(one.time_parts[place][1]) for one in checks)
        shown.add_row(f"  {name}", *seconds)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when the fake chip's cases cost more than they may."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.self_check",
        description="What the harness costs, and whether two runs of it agree.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of `chipscale run`")
    parser.add_argument(
        "--devices", nargs="+", default=["fake", "auto"], help="one after the other"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    checks = []
    for device in options.devices:
        with console.status(f"measuring suite=quick twice on {device} ..."):
            checks.append(measured_twice(device, [*_shortened(device), *options.overrides]))
    console.print(table(checks))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, to_json({"checks": checks}) + "\n")
    console.print(f"written to {options.out}")
    costs = [
        one.overhead_per_case_s
        for device, one in zip(options.devices, checks, strict=True)
        if device == "fake"
    ]
    if any(cost_s > MAX_OVERHEAD_S for cost_s in costs):
        console.print(
            f"The harness takes longer than {duration(MAX_OVERHEAD_S)} for a fake case; "
            f"the host's load is {os.getloadavg()[0]:.1f} on {num_usable_cores()} cores."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
