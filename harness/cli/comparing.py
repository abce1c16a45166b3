"""Runs named by the user as the comparison takes them, with their projections side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.compare import LABELS, RunInput
from harness.comparison import ProjectedRun
from harness.config.calibration import shipped_calibration
from harness.config.run_work import RunWork, run_work
from harness.config.this_chip import this_chip
from harness.environment import Environment
from harness.errors import ConfigError, PlanError
from harness.extrapolate.project import context_of, project
from harness.extrapolate.ratio import DrawnStep, step_by_cause, step_by_interval, throughput_ratio
from harness.judgement import proof_warnings
from harness.projection import Interval, Projection, Source
from harness.record import Record
from harness.report.rows import environment_warnings
from harness.results import accepted, result_rows
from harness.roofline import Roofline
from harness.side_by_side import useful
from harness.store.folder import RunFolder
from harness.workload.cost import step_cost
from harness.workload.step import Phase


@dataclass(frozen=True, slots=True)
class Opened:
    """A run with all that the comparison needs of it, read once."""

    folder: RunFolder
    run: RunInput
    work: RunWork


def opened(folder: RunFolder) -> Opened:
    """The run.

    Raises:
        RecordError: when the folder holds no run that can be read.
    """
    info, environment = folder.info, folder.environment
    records, roofs = folder.records(), folder.roofs
    work = run_work(folder.path)
    run = RunInput(
        run_id=info.run_id,
        suite=info.suite,
        model=info.model,
        device=info.device,
        chip=info.chip or environment.device.name,
        started_at=info.started_at,
        environment=environment,
        records=records,
        roofs=roofs,
        projection=folder.projection or _made(environment, records, roofs, work),
        work=work.steps,
        warnings=(
            *environment_warnings(environment, result_rows(records, roofs)),
            *proof_warnings(folder.proof),
            *folder.warnings(),
        ),
    )
    return Opened(folder, run, work)


def _made(
    environment: Environment, records: tuple[Record, ...], roofs: Roofline, work: RunWork
) -> Projection | None:
    """The projection that the run's own configuration asks for, where none was kept with it.

    None where it has no training work, or where its cluster is not of the chip that it measured.
    """
    model, cluster, parallel = work.model, work.cluster, work.parallel
    is_trained = any(Phase.TRAINING in record.case.roles for record in records)
    if model is None or cluster is None or parallel is None or not is_trained:
        return None
    chip = this_chip(environment)
    if cluster.chip not in ("this", chip.name):
        return None
    try:
        return project(
            chip=chip,
            model=model,
            cluster=cluster,
            parallel=parallel,
            cost=step_cost,
            records=accepted(records, roofs),
            roofs=roofs,
            device_memory_bytes=environment.device.memory_bytes,
            calibration=shipped_calibration(),
        )
    except (ConfigError, PlanError):
        return None  # The run said why when it ended.


def projected_runs(runs: Sequence[Opened]) -> tuple[ProjectedRun, ...]:
    """What the projection of each run says, against that of the first; empty where none has one.

    What two projections share, as the model's own error, is drawn once for both.
    """
    if all(one.run.projection is None for one in runs):
        return ()
    reference = runs[0].run.projection
    drawn = None if reference is None else _drawn(runs[0], reference)
    found = []
    for label, one in zip(LABELS, runs, strict=False):
        projection = one.run.projection
        if projection is None:
            reason = (
                "no projection, since it has no training work of a chip that its cluster is made "
                "of; `chipscale run suite=training` has"
            )
            found.append(ProjectedRun(label=label, reason=reason))
            continue
        own = drawn if one is runs[0] else _drawn(one, projection)
        assert own is not None
        ratio, is_common = _ratio(projection, own, reference, drawn)
        found.append(_told(label, projection, ratio, is_common))
    return tuple(found)


def _drawn(one: Opened, projection: Projection) -> DrawnStep:
    """Its step under draws by cause; by its interval alone where its inputs are not known here."""
    work, environment = one.work, one.run.environment
    if work.model is None or work.cluster is None or work.parallel is None:
        return step_by_interval(projection)
    if (work.model.name, work.cluster.name) != (projection.model, projection.cluster):
        return step_by_interval(projection)
    try:
        context = context_of(
            chip=this_chip(environment),
            model=work.model,
            cluster=work.cluster,
            parallel=work.parallel,
            cost=step_cost,
            records=accepted(one.run.records, one.run.roofs),
            roofs=one.run.roofs,
            device_memory_bytes=environment.device.memory_bytes,
            calibration=shipped_calibration(),
        )
        return step_by_cause(context, projection.headline.plan)
    except (ConfigError, PlanError):
        return step_by_interval(projection)


def _ratio(
    projection: Projection,
    own: DrawnStep,
    reference: Projection | None,
    drawn: DrawnStep | None,
) -> tuple[Interval | None, bool]:
    """Tokens per second over the reference's, where both train one model on as many chips."""
    if reference is None or drawn is None:
        return None, False
    if (projection.model, projection.headline.num_chips) != (
        reference.model,
        reference.headline.num_chips,
    ):
        return None, False
    if projection is reference:
        return Interval(value=1.0, low=1.0, high=1.0), True
    is_common = own.is_by_cause and drawn.is_by_cause
    return throughput_ratio(projection, own, reference, drawn), is_common


def _told(
    label: str, projection: Projection, ratio: Interval | None, has_common_draws: bool
) -> ProjectedRun:
    point, search = projection.headline, projection.search
    energy = point.energy
    return ProjectedRun(
        label=label,
        model=projection.model,
        cluster=projection.cluster,
        num_chips=point.num_chips,
        plan=point.plan.label,
        held_back_by=search.largest_part if search is not None else "",
        tokens_per_second=point.tokens_per_second,
        mfu=projection.mfu,
        goodput=point.goodput,
        useful_tokens_per_second=useful(projection),
        site_w=None if energy is None else energy.site_w,
        joules_per_token=None if energy is None else energy.joules_per_token,
        currency="" if energy is None else energy.currency,
        cost_per_million_tokens=None if energy is None else energy.cost_per_million_tokens,
        ratio=ratio,
        has_common_draws=has_common_draws,
        measured_share=dict(projection.source_share).get(Source.MEASURED, 0.0),
    )
