"""How a comparison of chips is written for people, in every kind of report."""

from collections import Counter

from harness.comparison import (
    Bar,
    CaseComparison,
    ChipComparison,
    GroupComparison,
    MeanComparison,
    ProjectedRun,
    RunPair,
    Verdict,
    Waterfall,
)
from harness.projection import Interval
from harness.record import SHORT_RESOLUTIONS
from harness.report.closure_table import error_text
from harness.report.rows import NOT_AVAILABLE, percent_text
from harness.results import short_text
from harness.units import MEGA, duration, energy, significant, with_prefix

RUN_HEADS = ("", "chip", "suite", "run", "host", "measured")
GROUP_HEADS = (
    "phase",
    "op group",
    "sizes",
    "speedup",
    "95 % interval",
    "of roof",
    "joules",
    "fastest",
    "verdict",
)
MAX_NAMED = 3


def ratio_text(ratio: float) -> str:
    """`1.31 x`."""
    return f"{significant(ratio)} x"


def interval_text(interval: Interval) -> str:
    """`1.28 to 1.34`."""
    return f"{significant(interval.low)} to {significant(interval.high)}"


def signed(seconds: float) -> str:
    """`+1.20 ms`, `-3.4 us`."""
    return f"{'-' if seconds < 0 else '+'}{duration(abs(seconds))}" if seconds else "0"


def signed_percent(share: float) -> str:
    """`-26 %`; small ones keep a digit after the point."""
    return f"{'-' if share < 0 else '+'}{significant(100 * abs(share), 2)} %" if share else "0 %"


def plural(count: int, noun: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def headlines(comparison: ChipComparison) -> tuple[str, ...]:
    """What came out, one sentence for each other run."""
    return tuple(headline(comparison, pair) for pair in comparison.pairs)


def headline(comparison: ChipComparison, pair: RunPair) -> str:
    """`B (h200) is 1.31 times as fast as A (h100): faster.`."""
    overall = pair.overall
    other = comparison.run(pair.label).title
    reference = comparison.reference.title
    ratio = significant(overall.speedup.value)
    counts = verdict_counts(pair)
    if overall.verdict is Verdict.SAME:
        said = f"{other} is as fast as {reference}, {ratio} times"
    else:
        said = f"{other} is {ratio} times as fast as {reference}"
    doubt = ", which is ambiguous" if overall.verdict is Verdict.AMBIGUOUS else ""
    return (
        f"{said} ({interval_text(overall.speedup)}){doubt}: geometric mean of "
        f"{plural(overall.num_problems, 'problem')}, each by its fastest implementation; "
        f"op groups: {counts}."
    )


def verdict_counts(pair: RunPair) -> str:
    """`12 faster, 2 same`, of the op groups."""
    counts = Counter(group.verdict for group in pair.groups)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def mean_rows(pair: RunPair) -> tuple[tuple[str, ...], ...]:
    """Phase, problems, ratio, interval, shares of the roofs, joules, verdict."""
    return tuple(_mean_row(mean) for mean in pair.means)


def run_rows(comparison: ChipComparison) -> tuple[tuple[str, ...], ...]:
    """A row under RUN_HEADS for each run."""
    return tuple(
        (
            run.label,
            run.chip or run.device,
            f"{run.suite} of {run.model}" if run.model else run.suite,
            run.run_id,
            run.host,
            f"{run.num_timed} of {run.num_cases} cases",
        )
        for run in comparison.runs
    )


def group_rows(pair: RunPair) -> tuple[tuple[str, ...], ...]:
    """A row under GROUP_HEADS for each group, in each phase the one first that loses most."""
    return tuple(
        (
            group.phase,
            group.group,
            str(group.num_problems),
            ratio_text(group.speedup.value),
            interval_text(group.speedup),
            shares_text(group.first_roof_share, group.second_roof_share),
            joules_text(group.joules_ratio),
            impls_text(group),
            ", ".join([group.verdict, *group.remarks]),
        )
        for group in sorted_groups(pair)
    )


def sorted_groups(pair: RunPair) -> tuple[GroupComparison, ...]:
    """Phases in their order, and in each the group first that loses most."""
    phases = list(dict.fromkeys(group.phase for group in pair.groups))
    return tuple(sorted(pair.groups, key=lambda one: (phases.index(one.phase), one.speedup.value)))


def impls_text(group: GroupComparison) -> str:
    """`triton`, or `triton -> torch` where they are not the same."""
    first, second = (" ".join(impls) for impls in (group.first_impls, group.second_impls))
    return first if first == second else f"{first} -> {second}"


MEAN_HEADS = ("phase", "problems", "speedup", "95 % interval", "of roof", "joules", "verdict")


def _mean_row(mean: MeanComparison) -> tuple[str, ...]:
    return (
        mean.phase or "all",
        f"{mean.num_problems:,}",
        ratio_text(mean.speedup.value),
        interval_text(mean.speedup),
        shares_text(mean.first_roof_share, mean.second_roof_share),
        joules_text(mean.joules_ratio),
        str(mean.verdict),
    )


def shares_text(first: float | None, second: float | None) -> str:
    """`71.0 -> 64.2 %` of each chip's own roof; empty where neither has one."""
    if first is None and second is None:
        return ""
    words = [NOT_AVAILABLE if one is None else significant(100 * one) for one in (first, second)]
    return f"{words[0]} -> {words[1]} %"


def joules_text(ratio: float | None) -> str:
    """`0.82 x`; empty where not both measured energy."""
    return "" if ratio is None else ratio_text(ratio)


def difference_sentence(pair: RunPair, waterfall: Waterfall) -> str:
    """The waterfall in one sentence: both times, and what most of the difference is."""
    title = waterfall.title[0].upper() + waterfall.title[1:]
    times = f"{duration(waterfall.first_s)} on A, {duration(waterfall.second_s)} on {pair.label}"
    share = waterfall.difference_s / waterfall.first_s
    said = f"{title}: {times} ({signed_percent(share)} time)"
    if waterfall.left_out:
        said += f", {plural(len(waterfall.left_out), 'piece')} of its work left out"
    bars = sorted(waterfall.bars, key=lambda bar: -abs(bar.seconds))
    largest = [bar for bar in bars if bar.seconds][:MAX_NAMED]
    if not largest:
        return f"{said}."
    named = "; ".join(f"{bar.cause} {signed(bar.seconds)}{_mostly(bar)}" for bar in largest)
    return f"{said}. Most of it: {named}."


def _mostly(bar: Bar) -> str:
    """` (mlp down -1.2 ms ...)`: the op that makes most of it; empty where none is named."""
    more = " ..." if len(bar.ops) > 1 else ""
    return f" ({bar_ops(bar, 1)}{more})" if bar.ops else ""


BAR_HEADS = ("cause", "difference", "of A's step", "most of it")


def bar_rows(waterfall: Waterfall) -> tuple[tuple[str, ...], ...]:
    """Cause, seconds, share of the first step, and the ops that make most of it; last the sum."""
    total_s = waterfall.difference_s
    return (
        *(
            (
                str(bar.cause),
                signed(bar.seconds),
                signed_percent(bar.seconds / waterfall.first_s),
                bar_ops(bar),
            )
            for bar in waterfall.bars
        ),
        ("together", signed(total_s), signed_percent(total_s / waterfall.first_s), ""),
    )


def bar_ops(bar: Bar, count: int = 2) -> str:
    """`mlp down -1.2 ms, attention core -0.4 ms`: roles without the problem."""
    return ", ".join(f"{op.name.partition(':')[0]} {signed(op.seconds)}" for op in bar.ops[:count])


def heights(waterfall: Waterfall) -> list[float]:
    """The sums that the bars reach, from the first time on."""
    found = [waterfall.first_s]
    for bar in waterfall.bars:
        found.append(found[-1] + bar.seconds)
    return found


def waterfall_notes(label: str, waterfall: Waterfall) -> tuple[str, ...]:
    """What to know of the bars, one sentence each."""
    speedup = waterfall.speedup
    notes = [
        f"Its measured ops together: {label} {ratio_text(speedup.value)} as fast "
        f"({interval_text(speedup)}, 95 % interval).",
        *waterfall.notes,
    ]
    for name, estimated_s, total_s in (
        ("A", waterfall.first_estimated_s, waterfall.first_s),
        (label, waterfall.second_estimated_s, waterfall.second_s),
    ):
        if estimated_s:
            notes.append(
                f"{percent_text(estimated_s / total_s)} of {name}'s step is estimated from its "
                "roofs, since it has no time of some ops; that difference is a bar of its own."
            )
    if waterfall.left_out:
        shown = "; ".join(waterfall.left_out[:MAX_NAMED])
        more = len(waterfall.left_out) - MAX_NAMED
        notes.append(f"Not in it: {shown}{f'; and {more} more' if more > 0 else ''}.")
    if waterfall.first_joules and waterfall.second_joules:
        ratio = waterfall.second_joules / waterfall.first_joules
        notes.append(
            f"Energy of its measured ops: {energy(waterfall.first_joules)} on A, "
            f"{energy(waterfall.second_joules)} on {label} ({ratio_text(ratio)})."
        )
    return tuple(notes)


PROJECTION_HEADS = (
    "run",
    "tokens/s (P10 to P90)",
    "against A",
    "MFU",
    "useful tokens/s",
    "MW",
    "J/token",
    "per M tokens",
)


def projection_rows(comparison: ChipComparison) -> tuple[tuple[str, ...], ...]:
    """A row under PROJECTION_HEADS for each run that has a projection."""
    return tuple(
        (
            comparison.run(one.label).title,
            _tokens_text(one.tokens_per_second),
            NOT_AVAILABLE
            if one.ratio is None
            else (
                "1"
                if one.label == "A"
                else f"{ratio_text(one.ratio.value)} ({interval_text(one.ratio)})"
            ),
            percent_text(one.mfu),
            NOT_AVAILABLE
            if one.useful_tokens_per_second is None
            else with_prefix(one.useful_tokens_per_second.value, ""),
            NOT_AVAILABLE if one.site_w is None else significant(one.site_w / MEGA),
            NOT_AVAILABLE if one.joules_per_token is None else significant(one.joules_per_token),
            cost_text(one),
        )
        for one in comparison.projections
        if not one.reason
    )


def _tokens_text(tokens: Interval | None) -> str:
    if tokens is None:
        return NOT_AVAILABLE
    low, high = with_prefix(tokens.low, ""), with_prefix(tokens.high, "")
    return f"{with_prefix(tokens.value, '')} ({low} to {high})"


def cost_text(one: ProjectedRun) -> str:
    """`USD 3.18`."""
    if one.cost_per_million_tokens is None:
        return NOT_AVAILABLE
    return f"{one.currency} {significant(one.cost_per_million_tokens)}".strip()


def projection_title(comparison: ChipComparison) -> str:
    """`Projected: llama3_8b on 100,000 chips`; several models or sizes are all named."""
    kinds = dict.fromkeys(
        f"{one.model} on {one.num_chips:,} chips" for one in comparison.projections if one.model
    )
    return f"Projected: {', '.join(kinds)}"


def projection_notes(comparison: ChipComparison) -> tuple[str, ...]:
    """What has no projection and why, and what each is held back by."""
    notes = []
    for one in comparison.projections:
        title = comparison.run(one.label).title
        if one.reason:
            notes.append(f"{title}: {one.reason}.")
            continue
        held = f", held back by {one.held_back_by}" if one.held_back_by else ""
        notes.append(
            f"{title}: {one.plan}{held}; {percent_text(one.measured_share)} of the compute time "
            "is measured."
        )
        if one.ratio is None and one.label != "A":
            notes.append(
                f"{title} has no ratio to A: another model, another number of chips, or A has no "
                "projection."
            )
        elif one.ratio is not None and one.label != "A" and not one.has_common_draws:
            notes.append(f"{title}: the ratio takes the two for independent, so it is wide.")
    return tuple(notes)


def missing_sentences(comparison: ChipComparison, pair: RunPair) -> tuple[str, ...]:
    """Cases that one side alone has a time for, by side, status and reason."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for one in pair.missing:
        found.setdefault((one.label, one.status, one.reason), []).append(one.case_id)
    without = {one.case_id for one in pair.missing if not one.has_other}
    sentences = []
    for (label, status, reason), cases in found.items():
        lost = sum(case in without for case in cases)
        alone = f", {lost} of them with no other implementation" if lost else ""
        why = f" ({reason.rstrip('.')})" if reason and status != "absent" else ""
        sentences.append(
            f"{comparison.run(label).title} has no time for {plural(len(cases), 'case')}{alone}: "
            f"{status.replace('_', ' ')}{why}, as {cases[0]}."
        )
    return tuple(sentences)


def closure_sentences(pair: RunPair) -> tuple[str, ...]:
    """How far the sums of ops are off on both, a line for each part of a layer."""
    return tuple(
        f"Sum of the ops against {one.layer} {one.part}: A {error_text(one.first)}, "
        f"{pair.label} {error_text(one.second)}."
        for one in pair.closures
    )


def case_verdict(pair_label: str, case: CaseComparison) -> str:
    """The verdict, which of the two times is too short for its timer, and other sets of inputs."""
    steps = {"A": case.first_steps, pair_label: case.second_steps}
    short = [
        f"{name} {short_text(number)}"
        for name, number in steps.items()
        if number < SHORT_RESOLUTIONS
    ]
    sets = (case.first_input_sets, case.second_input_sets)
    fewer = (
        [f"sets of inputs: A {sets[0]}, {pair_label} {sets[1]}"]
        if case.has_other_input_sets
        else []
    )
    others = [remark for remark in case.remarks if not remark.endswith(" short")]
    return ", ".join([case.verdict, *short, *fewer, *others])


def forced_sentence(pair: RunPair) -> str:
    """What a forced comparison is worth; empty where all work was equal."""
    if not pair.different_protocol:
        return ""
    return (
        f"FORCED: {len(pair.different_protocol)} cases were measured by different protocols and "
        "are not equal work; their lines say what differs."
    )


def fewer_sentence(pair: RunPair) -> str:
    """How many cases took turns between fewer sets of inputs; empty for none."""
    fewer = sum(case.has_other_input_sets for case in pair.cases)
    if not fewer:
        return ""
    return (
        f"{fewer} cases had fewer sets of inputs in one of the two, as where memory is short; "
        "their lines say how many."
    )


def warning_sentences(comparison: ChipComparison) -> tuple[str, ...]:
    """What to know of the runs before their times are trusted, each once with its runs."""
    labels: dict[str, list[str]] = {}
    for run in comparison.runs:
        for warning in run.warnings:
            labels.setdefault(warning, []).append(run.label)
    return tuple(f"{', '.join(names)}: {warning}" for warning, names in labels.items())
