"""Job: everything a worker needs, in one file that can be carried to a bare host."""

from dataclasses import dataclass
from pathlib import Path

from harness.cases import Case
from harness.codec import from_json
from harness.device.request import DeviceRequest
from harness.errors import RecordError
from harness.measure.policy import MeasurePolicy
from harness.store.folder import RunInfo
from kernels.tuning import TuningTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The cases of one run, on one device, under one policy."""

    run: RunInfo
    device: DeviceRequest
    policy: MeasurePolicy
    cases: tuple[Case, ...]
    tuning: tuple[TuningTable, ...] = ()
    """What is known of the chips that the job may meet; the worker takes that of its device."""
    config_yaml: str = ""
    """The resolved configuration the cases were made from."""


def read_job(path: Path) -> Job:
    """The job in that file.

    Raises:
        RecordError: when there is no such file, or it holds no job.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecordError(
            f"{path}: no such file. `chipscale run suite=... plan={path.name}` writes it."
        ) from None
    return from_json(Job, text, str(path))
