"""`python -m harness.worker CASES OUT`: measure on a bare host, with no Hydra and no MLflow."""

import argparse
import math
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from harness.cases import Case
from harness.codec import to_json
from harness.environment import Environment
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    ChipscaleError,
    NothingMeasured,
    StorageError,
)
from harness.judgement import proof_warnings
from harness.record import FAILURES, Record, Status
from harness.stats import summarize
from harness.store.disk import write_atomically
from harness.store.folder import RUN, RunFolder, RunInfo, run_suffix
from harness.units import duration
from harness.worker.job import read_job
from harness.worker.supervisor import Watcher, supervise


class PlainPrinter(Watcher):
    """One line per case, for logs and plain terminals."""

    def __init__(self, num_cases: int) -> None:
        self._num_cases = num_cases
        self._num_done = 0

    def on_notice(self, sentence: str) -> None:
        """Say it where it is seen beside the errors."""
        print(f"warning: {sentence}", file=sys.stderr, flush=True)

    def on_environment(self, environment: Environment) -> None:
        """Say what is measured."""
        print(f"device: {environment.device.name}, torch {environment.version('torch')}")

    def on_start(self, case: Case) -> None:
        """A case is told of when it is over."""

    def on_record(self, record: Record) -> None:
        """Say what became of the case."""
        self._num_done += 1
        shown = record.reason
        if record.measurement is not None:
            shown = duration(summarize(record.measurement.steady_samples_s).median)
        print(
            f"[{self._num_done}/{self._num_cases}] {record.case.id}: {record.status} {shown}",
            flush=True,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _own_run(planned: RunInfo) -> RunInfo:
    """The planned run with an id and a start of its own: one cases file may go to many hosts."""
    return replace(planned, run_id=f"{planned.run_id}-{run_suffix()}", started_at=_now())


def main(arguments: list[str] | None = None) -> int:
    """Measure a file of cases into a folder; exit 4 when one failed, 5 when none was measured.

    And 6 when the device is busy, 7 when the disk takes no more.
    """
    parser = argparse.ArgumentParser(
        prog="python -m harness.worker",
        description="Measure the cases of a file on this host. Needs torch, triton and numpy only.",
        epilog="Bring the folder home with `chipscale sync OUT`.",
    )
    parser.add_argument("cases", type=Path, help="written by `chipscale run ... plan=cases.json`")
    parser.add_argument("out", type=Path, help="a folder for the records; made if it is not there")
    parser.add_argument(
        "--compile-first",
        type=int,
        default=0,
        metavar="N",
        help="compile all in N processes, 8 at most, before anything is measured",
    )
    parser.add_argument(
        "--within",
        type=float,
        default=math.inf,
        metavar="S",
        help="begin no case after S seconds; the same command goes on with the rest",
    )
    options = parser.parse_args(arguments)
    until_s = time.monotonic() + options.within
    try:
        job = read_job(options.cases)
        folder = RunFolder(options.out)
        job = replace(job, run=folder.info if (options.out / RUN).exists() else _own_run(job.run))
        printer = PlainPrinter(len(job.cases))
        if options.compile_first:
            # It needs torch, whose import takes seconds that this process can do without.
            from harness.worker.compile_ahead import compile_ahead

            told = compile_ahead(
                job,
                options.compile_first,
                # Half of the time: what is not compiled then is compiled where it is measured.
                options.within / 2,
                done=frozenset(record.case.id for record in folder.records()),
                on_notice=printer.on_notice,
            )
            print(told, flush=True)
        supervise(job, options.out, printer, within_s=until_s - time.monotonic())
        if len(folder.records()) == len(job.cases):
            ended = replace(job.run, ended_at=_now())
            write_atomically(options.out / RUN, to_json(ended) + "\n")
    except StorageError as error:
        kept = f"{len(RunFolder(options.out).records())} records are kept in {options.out}"
        print(
            f"chipscale: {error} {kept}. Make room, then the same command goes on.",
            file=sys.stderr,
        )
        return error.exit_code
    except ChipscaleError as error:
        print(f"chipscale: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"chipscale: {error.filename}: {error.strerror}.", file=sys.stderr)
        return ChipscaleError.exit_code
    except KeyboardInterrupt:
        print("Stopped; the same command goes on where it was.", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    records = folder.records()
    for warning in proof_warnings(folder.proof):
        print(f"warning: {warning}")
    for record in records:
        if record.status in FAILURES:
            print(f"{record.case.id}: {record.status}, {record.reason}")
    statuses = Counter(record.status for record in records)
    print("  ".join(f"{statuses[status]} {status}" for status in Status if statuses[status]))
    num_left = len(job.cases) - sum(statuses.values())
    if num_left:
        print(f"{num_left} cases are left; the same command goes on.")
    print(f"`chipscale sync {options.out}` brings the results home.")
    if not records:
        return NothingMeasured.exit_code
    return CASE_FAILED_EXIT_CODE if any(statuses[failure] for failure in FAILURES) else 0


if __name__ == "__main__":
    sys.exit(main())
