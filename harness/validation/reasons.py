"""What may explain a large error: what the rows themselves, the plan and the calibration tell."""

from collections.abc import Mapping, Sequence

from harness.validation.calibrate import kind_of
from harness.validation.metrics import END_TO_END
from harness.validation.predict import Prediction

FEW_RUNS = 8
"""With fewer of its software and kind, constants stay near their priors."""
SIBLING_FACTOR = 1.25
"""Step times of two rows alike differ more than any release of one software does, 9 %."""


def reasons(
    one: Prediction, every: Sequence[Prediction], runs_of: Mapping[tuple[str, str], int]
) -> list[str]:
    """Sentences, none where nothing is known.

    Args:
        one: The prediction that is off.
        every: All predictions, among which rows like it are looked for.
        runs_of: Runs that calibrate a software and kind of model.
    """
    run = one.run
    found = []
    sibling = _sibling(one, every)
    if sibling is not None:
        ratio = run.step_time_s / _step_of(one, sibling)
        software = sibling.run.software
        release = "" if software == run.software else f" under {software}"
        found.append(
            f"{sibling.id}, of the same model, type and degrees on as many chips, was "
            f"{max(ratio, 1 / ratio):.2f} times as {'fast' if ratio > 1 else 'slow'}{release}"
        )
    if run.metric in END_TO_END:
        found.append("time to train: how many evaluations its submission took is not told")
    known = runs_of.get((run.software, kind_of(run)), 0)
    if known < FEW_RUNS:
        found.append(f"{known or 'no'} runs calibrate {run.software} ({kind_of(run)})")
    if one.memory_share > 1:
        found.append(
            f"{one.memory_share:.0%} of the memory by our count: something was recomputed or moved "
            "to the host that the row does not tell"
        )
    if run.parallel.tensor is None or run.parallel.pipeline is None:
        found.append("the row does not tell its degrees, which were searched")
    if run.model.experts is not None:
        found.append("experts: launches and waits of the host differ by model in one release")
    return found


def _step_of(one: Prediction, other: Prediction) -> float:
    """The other's published step, at this one's number of tokens."""
    tokens = [each.run.parallel.global_batch_tokens for each in (one, other)]
    return other.run.step_time_s * tokens[0] / tokens[1]


def _sibling(one: Prediction, every: Sequence[Prediction]) -> Prediction | None:
    """The row most unlike this one in speed among those of the same model, chips and degrees.

    It counts where it is nearer to this one's prediction than this one is.
    """
    predicted = one.step.seconds
    off = abs(one.run.step_time_s / predicted - 1)
    alike = [
        other
        for other in every
        if other is not one
        and _degrees(other) == _degrees(one)
        and abs(_step_of(one, other) / predicted - 1) < off
    ]
    ratios = {other.id: one.run.step_time_s / _step_of(one, other) for other in alike}
    far = [other for other in alike if max(ratios[other.id], 1 / ratios[other.id]) > SIBLING_FACTOR]
    return max(far, key=lambda other: max(ratios[other.id], 1 / ratios[other.id]), default=None)


def _degrees(one: Prediction) -> tuple[object, ...]:
    run, plan = one.run, one.step.plan
    return (
        *(run.chip.name, run.num_chips, run.model.name, run.parallel.linear_dtype),
        *(run.parallel.sequence_length, plan.tensor, plan.pipeline, plan.context, plan.expert),
    )
