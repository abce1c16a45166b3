"""Fleet: several devices of one machine measured at once, each in a run of its own.

The runs of one fleet share the tag `sweep`.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.device.request import DeviceRequest
from harness.environment import Environment
from harness.errors import ChipscaleError, ConfigError, RecordError
from harness.run import RUNS, measure_run
from harness.spread import DeviceRun, Spread, spread_of
from harness.store.folder import SPREAD, RunFolder, run_folders
from harness.worker.job import Job
from harness.worker.supervisor import Watcher

SWEEP_TAG = "sweep"
DEVICE_TAG = "device_index"
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOutcome:
    """What became of one device: its measured run, or the error that ended it."""

    index: int
    run_id: str
    folder: RunFolder | None = None
    error: ChipscaleError | OSError | None = None


def device_indices(devices: tuple[int, ...] | str, request: DeviceRequest) -> tuple[int, ...]:
    """The indices meant by `all` or by a list, on this machine.

    Raises:
        ConfigError: when one of them is not there.
    """
    # Torch's import takes seconds, and most who import this module have one device.
    from harness.device.open import num_devices

    count = num_devices(request)
    if isinstance(devices, str):
        return tuple(range(max(count, 1)))  # Where there is none, the worker says what is missing.
    absent = [index for index in devices if index >= count]
    if absent and request.name == "cpu":
        raise ConfigError(
            f"devices: {list(devices)} was asked for, but the processor is one device. "
            "Leave devices out; `taskset` gives a run fewer cores."
        )
    if absent and count:
        raise ConfigError(
            f"devices: {absent[0]} was asked for, but there are {count} here; the first is 0."
        )
    return devices


def measure_fleet(
    jobs: Sequence[Job],
    results_dir: Path,
    watchers: Sequence[Watcher],
    chip_name: Callable[[Environment], str],
) -> tuple[DeviceOutcome, ...]:
    """Measure all jobs at once, a supervisor and a worker process for each.

    A device that fails costs its own run alone.

    Raises:
        KeyboardInterrupt: by Ctrl-C, once all of them have stopped.
    """
    stop = threading.Event()
    outcomes: dict[int, DeviceOutcome] = {}
    broken: list[BaseException] = []

    def measure_one(place: int) -> None:
        job = jobs[place]
        outcome = DeviceOutcome(index=job.device.index, run_id=job.run.run_id)
        try:
            folder = measure_run(job, results_dir, watchers[place], chip_name, stop)
            outcomes[place] = replace(outcome, folder=folder)
        except (ChipscaleError, OSError) as error:
            outcomes[place] = replace(outcome, error=error)
        except BaseException as error:  # A thread that dies must not pass for one that measured.
            broken.append(error)

    threads = [threading.Thread(target=measure_one, args=[place]) for place in range(len(jobs))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            # A join without a time-out would keep Ctrl-C waiting on some systems.
            while thread.is_alive():
                thread.join(_POLL_S)
    except KeyboardInterrupt:
        stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        raise
    if broken:
        raise broken[0]
    return tuple(outcomes[place] for place in range(len(jobs)))


def keep_spread(sweep: str, results_dir: Path) -> Spread | None:
    """Hold the ended runs of the sweep against each other, and keep the result in each folder."""
    folders = [folder for folder in run_folders(results_dir / RUNS) if _is_of(folder, sweep)]
    runs = sorted(map(_device_run, folders), key=lambda run: (len(run.label), run.label))
    spread = spread_of(runs, sweep)
    if spread is not None:
        for folder in folders:
            folder.write(SPREAD, spread)
    return spread


def _is_of(folder: RunFolder, sweep: str) -> bool:
    """Whether it is an ended run of the sweep; what cannot be read is of none."""
    try:
        info = folder.info
    except RecordError:
        return False
    return dict(info.tags).get(SWEEP_TAG) == sweep and bool(info.ended_at)


def _device_run(folder: RunFolder) -> DeviceRun:
    info = folder.info
    return DeviceRun(
        label=dict(info.tags).get(DEVICE_TAG, "0"), run_id=info.run_id, records=folder.records()
    )
