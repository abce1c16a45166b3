"""The device, held from the first round to the last, so that nothing slips in between.

The gate takes the device's lock of this host, and its own children lock in a folder of the gate's:
they run one after the other, and an arm of an older version does the same without knowing.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.codec import to_json
from harness.environment import Environment
from harness.errors import ConfigError, RecordError
from harness.worker import process
from harness.worker.heartbeat import Heartbeat
from harness.worker.job import Job
from harness.worker.lock import DEVICE_WAIT_S, lock_device, this_process

LOG = "probe.log"


def probe(job: Job, folder: Path) -> Environment:
    """What a process of its own sees of the job's device; the device is let go of again.

    The gate itself opens none: a context in its process would be there in every round.

    Raises:
        ConfigError: when the device is not there.
        RecordError: when the process cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="chipscale-gate-") as scratch:
        cases, beat = Path(scratch) / "cases.json", Path(scratch) / "heartbeat"
        cases.write_text(to_json(job) + "\n", encoding="utf-8")
        with (
            (folder / LOG).open("a", encoding="utf-8") as log,
            contextlib.closing(Heartbeat(beat)),
        ):
            child = process.start(cases, beat, log)
            try:
                for event in process.events(child):
                    if event is not None and event.refusal is not None:
                        raise ConfigError(event.refusal)
                    if event is not None and event.environment is not None:
                        return event.environment
            finally:
                process.stop(child)
    raise RecordError(
        f"The process that was to open the device ended without a word; {folder / LOG} has its "
        "last ones."
    )


@contextlib.contextmanager
def held(
    environment: Environment, index: int, gate_id: str, on_notice: Callable[[str], None]
) -> Iterator[None]:
    """The device is this gate's alone until the end.

    Raises:
        DeviceBusyError: when another run has it for too long.
    """
    lock = lock_device(environment.device, index, this_process(gate_id), DEVICE_WAIT_S, on_notice)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()
