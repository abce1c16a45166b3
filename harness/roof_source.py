"""Where a run's roofs come from: its own search, else the latest one on the same device."""

from collections.abc import Sequence

from harness.environment import Environment
from harness.errors import RecordError
from harness.measure.policy import MeasurePolicy
from harness.record import SCHEMA_VERSION, Record
from harness.roofline import Roofline
from harness.roofs import completed, measured_roofs
from harness.store.folder import CASES, RunFolder
from harness.worker.job import read_job

ROOF_SUITES = ("roofs", "roofs_cpu")
"""The suites that search for roofs."""
VERSIONS = ("torch", "triton")
"""Another version of these may be faster or slower, and is another roof."""


def roofs_for(
    folder: RunFolder, others: Sequence[RunFolder], sheet: Roofline | None = None
) -> Roofline:
    """The roofs that the results of a run are held against; each says the run it comes from.

    What the run itself did not search for is taken from the latest finished run of a suite of roofs
    on the same device, with the same versions and rules of measuring, where there is one.

    Args:
        folder: the run.
        others: runs to look among, oldest first.
        sheet: the rates of the data sheet, where the chip has one.
    """
    records = folder.records()
    own = measured_roofs(records, sheet)
    if folder.info.suite in ROOF_SUITES:
        return own
    return completed(own, _latest(_identity(folder, records), others, sheet))


def roofs_of_device(
    environment: Environment,
    policy: MeasurePolicy,
    others: Sequence[RunFolder],
    sheet: Roofline | None = None,
) -> Roofline:
    """The roofs of that device under these rules, for results that are no run of their own.

    Args:
        environment: of the device.
        policy: the rules that the results are measured by.
        others: runs to look among, oldest first.
        sheet: the rates of the data sheet, where the chip has one.
    """
    return _latest((*_device_and_rules(environment, policy), SCHEMA_VERSION), others, sheet)


def _latest(
    identity: tuple[object, ...] | None, others: Sequence[RunFolder], sheet: Roofline | None
) -> Roofline:
    """Those of the latest finished run of a suite of roofs with that identity, or none."""
    for other in reversed(others):
        try:
            info = other.info
            if info.suite not in ROOF_SUITES or not info.ended_at:
                continue
            found = other.records()
            if identity is not None and _identity(other, found) == identity:
                return measured_roofs(found, sheet)
        except RecordError:
            continue  # A run that cannot be read is told of where it is asked for by name.
    return measured_roofs((), sheet)


def _identity(folder: RunFolder, records: Sequence[Record]) -> tuple[object, ...] | None:
    """Equal for runs whose roofs are each other's; None where that cannot be told."""
    try:
        policy = read_job(folder.path / CASES).policy
    except RecordError:
        return None
    newest = max((record.schema_version for record in records), default=0)
    return (*_device_and_rules(folder.environment, policy), newest)


def _device_and_rules(environment: Environment, policy: MeasurePolicy) -> tuple[str, ...]:
    return (
        *_device(environment),
        *(environment.version(name) for name in VERSIONS),
        *_rules(policy),
    )


def _device(environment: Environment) -> tuple[str, ...]:
    """The device by its own number where it has one, else by the host that it is in."""
    device = environment.device
    return (device.name, device.uuid or f"{environment.host} {device.index}")


def _rules(policy: MeasurePolicy) -> tuple[str, ...]:
    """What moves a time; how long and how often is sampled only makes it surer."""
    return (policy.cache, policy.launch, policy.inputs)
