"""How the numbers of a row or a projection are written for people, in every kind of report."""

from collections.abc import Callable, Sequence

from harness.environment import Environment
from harness.projection import TIE, Interval, Projection, ScalePoint, SearchSummary
from harness.record import SHORT_RESOLUTIONS, Record, protocol_values
from harness.report.at_scale import island_rows, scale_facts, tokens_interval_text
from harness.results import NOISY_HALF_WIDTH, ResultRow, Roofs, disturbed_text, sheet_share
from harness.roofline import Roof
from harness.store.folder import RunInfo
from harness.units import capacity, duration, significant, with_prefix
from harness.wall_time import WallTime

NOT_AVAILABLE = "n/a"
PLUS_MINUS = "+/-"


def spread_text(value: float, low: float, high: float) -> str:
    """Half the interval's width relative to the value: `+/- 0.8 %`."""
    if value <= 0:
        return ""
    return f"{PLUS_MINUS} {significant(100 * (high - low) / 2 / value, 2)} %"


def median_text(row: ResultRow) -> str:
    """The median and how well it is known: `123 us +/- 0.8 %`; empty without a time."""
    if row.median_s is None or row.low_s is None or row.high_s is None:
        return ""
    return f"{duration(row.median_s)} {spread_text(row.median_s, row.low_s, row.high_s)}"


def roof_text(row: ResultRow) -> str:
    """Per cent of the measured roof; a value above the roof is shown as it is, with a mark."""
    if not row.is_ok:
        return ""
    if row.roof_share is None:
        return NOT_AVAILABLE
    return f"{significant(100 * row.roof_share)} %" + (" !" if row.is_above_roof else "")


ROOF_HEADS = ("roof", "rate", "interval", "of sheet", "tried", "best alone", "found by")
"""Of the table of measured roofs: the share of the data sheet's rate, the problems that were tried,
and what the best case says of itself, which is the maximum and mostly too good."""


def roof_rows(roofs: Roofs) -> tuple[tuple[str, ...], ...]:
    """A row under ROOF_HEADS for each measured roof."""
    return tuple(
        (
            roof.what,
            _roof_value(roof, roof.value),
            spread_text(roof.value, roof.low, roof.high),
            percent_text(sheet_share(roof, roofs.sheet)),
            str(roof.num_tried),
            _roof_value(roof, roof.naive),
            roof.shape,
        )
        for roof in roofs.roofs
    )


def _roof_value(roof: Roof, value: float) -> str:
    return duration(value) if roof.unit == "s" else with_prefix(value, roof.unit)


def roof_source_text(roofs: Roofs, run_id: str = "") -> str:
    """Which runs the roofs come from, where that is not the run itself; else empty."""
    others = dict.fromkeys(roof.run_id for roof in roofs.roofs if roof.run_id != run_id)
    return f"Roofs found by a search in {', '.join(others)}" if others else ""


def status_text(row: ResultRow) -> str:
    """The status in plain words, with what to know of the time."""
    return ", ".join([row.status_word.replace("_", " "), *row.remarks])


def percent_text(share: float | None) -> str:
    """A share as per cent, or n/a."""
    return NOT_AVAILABLE if share is None else f"{significant(100 * share)} %"


def seconds_interval_text(interval: Interval) -> str:
    """`12.0 s (11.1 s to 13.4 s)`."""
    return f"{duration(interval.value)} ({duration(interval.low)} to {duration(interval.high)})"


def chips_text(point: ScalePoint) -> str:
    """`100,000 chips, 32 of them idle`."""
    idle = point.num_chips - point.num_chips_used
    return f"{point.num_chips:,} chips" + (f", {idle:,} of them idle" if idle else "")


def confidence_text(projection: Projection) -> str:
    """`90 % interval`."""
    return f"{100 * projection.interval_confidence:g} % interval"


def projection_facts(projection: Projection) -> tuple[tuple[str, str], ...]:
    """The projection as names and values, most wanted first."""
    point = projection.headline
    sources = ", ".join(
        f"{percent_text(share)} {source}" for source, share in projection.source_share
    )
    return (
        ("chips", chips_text(point)),
        *_plan_facts(projection),
        (
            "batch",
            f"{point.global_batch_sequences:,} sequences of {projection.sequence_length:,} tokens, "
            f"{projection.dtype}"
            + (f", layers in {projection.linear_dtype}" if projection.linear_dtype else ""),
        ),
        ("step time", seconds_interval_text(point.step_time_s)),
        ("throughput", tokens_interval_text(point.tokens_per_second)),
        ("MFU", percent_text(projection.mfu)),
        ("HFU", percent_text(projection.hfu)),
        *scale_facts(projection),
        (
            "memory",
            f"{capacity(projection.memory_bytes_per_chip)} per chip "
            f"of {capacity(projection.memory_limit_bytes)}",
        ),
        ("compute time from", sources or NOT_AVAILABLE),
        ("interval", f"{confidence_text(projection)}: {projection.interval_basis}"),
        *(search_facts(projection.search) if projection.search is not None else ()),
    )


def search_facts(search: SearchSummary) -> tuple[tuple[str, str], ...]:
    """What there was to choose from and what holds the best plan back, as names and values."""
    tied = search.num_tied_kinds
    kinds = f"{tied} other kind{'s' if tied != 1 else ''} of plan within {100 * TIE:g} %"
    ties = kinds if tied else "no tie"
    held_back = []
    if search.largest_part:
        share = percent_text(search.largest_part_share)
        held_back.append(f"{search.largest_part}, {share} of the step")
    gain = percent_text(max(0.0, search.double_batch_gain))
    held_back.append(f"the batch: twice as large it would give {gain} more tokens/s in this plan")
    return (
        (
            "plans",
            f"{search.num_enumerated:,}, of which {search.num_fitting:,} fit the memory "
            f"({percent_text(search.share_dropped_by_memory)} do not); {ties}",
        ),
        ("held back by", "; ".join(held_back)),
    )


ALTERNATIVES_TITLE = "Next best of another kind"
ALTERNATIVE_HEADS = ("plan", "step time", "against the best")


def alternative_rows(search: SearchSummary) -> tuple[tuple[str, str, str], ...]:
    """Label, step time and margin of the best plans of other kinds, best first."""
    return tuple(
        (
            one.plan.label,
            duration(one.step_time_s),
            f"{100 * one.slower:.1f} % fewer tokens/s" + (", a tie" if one.is_tie else ""),
        )
        for one in search.alternatives
    )


CAUSES_TITLE = "What the interval is made of"
CAUSE_HEADS = ("input", "of the variance", "step at its P10 and P90", "what would narrow it")


def cause_rows(projection: Projection) -> tuple[tuple[str, str, str, str], ...]:
    """Input, share of the variance, the step at its ends and what to measure, largest first."""
    return tuple(
        (
            cause.title,
            percent_text(cause.share),
            f"{duration(cause.low_s)} to {duration(cause.high_s)}",
            cause.advice,
        )
        for cause in projection.causes
    )


WORTH_MEASURING = 0.05
"""Share of the variance from which measuring its cause is advised."""


def next_measurement(projection: Projection) -> str:
    """The suite that would narrow the interval most, in a sentence; empty where none would."""
    shares: dict[str, float] = {}
    for cause in projection.causes:
        if cause.advice.startswith("chipscale "):
            shares[cause.advice] = shares.get(cause.advice, 0.0) + cause.share
    if not shares:
        return ""
    best = max(shares, key=lambda advice: shares[advice])
    if shares[best] < WORTH_MEASURING:
        return "No suite would narrow it by much: most is what no measurement of one chip settles."
    return f"`{best}` would settle most of what a suite can: {percent_text(shares[best])} of it."


def _plan_facts(projection: Projection) -> tuple[tuple[str, str], ...]:
    """The plan, or those of the islands of a mixed cluster."""
    considered = f"best of {projection.num_plans_considered:,} considered"
    if projection.islands:
        return (("plans", f"one for each island, {considered}"), *island_rows(projection))
    return (("plan", f"{projection.headline.plan.label} ({considered})"),)


def part_shares(projection: Projection) -> tuple[tuple[str, float, float], ...]:
    """Name, seconds and share of the step for each part, in the order of the projection."""
    total = sum(part.seconds for part in projection.parts)
    return tuple(
        (part.name, part.seconds, part.seconds / total if total > 0 else 0.0)
        for part in projection.parts
    )


def reasons(rows: Sequence[ResultRow]) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """Status, reason and the cases it befell, for cases without a time, most frequent first."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.is_ok:
            found.setdefault((status_text(row), row.reason), []).append(row.case_id)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return tuple((status, reason, tuple(cases)) for (status, reason), cases in ordered)


def short_warning(rows: Sequence[ResultRow]) -> str:
    """A sentence on cases too short for their timer, or nothing."""
    short = sum(row.is_short for row in rows)
    if not short:
        return ""
    return (
        f"{short} of {len(rows)} cases are short: they last less than {SHORT_RESOLUTIONS} "
        f"steps of their timer, so one step is {100 / SHORT_RESOLUTIONS:g} % of their time or "
        "more. Compare larger sizes."
    )


def wall_time_rows(wall_time: WallTime) -> tuple[tuple[str, str, str], ...]:
    """What the time was spent on, its seconds and its share."""
    return tuple(
        (name, duration(seconds), percent_text(seconds / wall_time.wall_s))
        for name, seconds in wall_time.parts
    )


def wall_time_text(wall_time: WallTime) -> str:
    """One line: for how much of the time the device was being measured."""
    others = ", ".join(
        f"{name} {share}" for name, _, share in wall_time_rows(wall_time) if name != "measuring"
    )
    return (
        f"The device was measured for {percent_text(wall_time.measured_share)} of "
        f"{duration(wall_time.wall_s)} ({percent_text(wall_time.measured_share_once_compiled)} "
        f"without compiling); {others}."
    )


_WORTH_TELLING: tuple[tuple[Callable[[ResultRow], bool], str], ...] = (
    (
        lambda row: row.is_noisy,
        f"{{}} are noisy: half their interval is more than {NOISY_HALF_WIDTH:.0%} of the median. "
        "Measure again on a quiet host.",
    ),
    (
        lambda row: row.is_throttled,
        "The device was throttled all through {}, whose times are of a chip that is slower than it "
        "should be. Look at its cooling.",
    ),
    (
        lambda row: row.num_throttled > 0 and not row.is_throttled,
        "The device was throttled for some samples of {}; they are kept, labelled, and left out of "
        "the medians.",
    ),
    (
        lambda row: row.is_power_capped,
        "The device was at its power limit in {}, so its clocks depend on the data and on the "
        "limit that is set.",
    ),
    (
        lambda row: row.is_rejected,
        "{} were faster than the chip can be, so they have no time here; their records have their "
        "samples.",
    ),
    (
        lambda row: row.is_above_roof,
        "{} were faster than their measured roof, so the roof cases did not reach this chip's "
        "best.",
    ),
)
"""What to say of cases, with their count in the place of the braces."""


def environment_warnings(
    environment: Environment | None, rows: Sequence[ResultRow]
) -> tuple[str, ...]:
    """What a reader should know before trusting the numbers, one sentence each."""
    warnings = list(environment.warnings) if environment is not None else []
    if environment is not None and environment.device.torch_device_type == "fake":
        warnings.insert(0, "This chip is not there: its rates, and all times here, are made up.")
    if environment is not None and environment.has_local_changes:
        warnings.append("The checkout had local changes, so its commit does not tell the code.")
    warnings += [text for text in (short_warning(rows), disturbed_text(rows)) if text]
    for is_so, words in _WORTH_TELLING:
        count = sum(is_so(row) for row in rows)
        if count:
            warnings.append(words.format(f"{count} of {len(rows)} cases"))
    return tuple(warnings)


def environment_facts(
    info: RunInfo | None, environment: Environment | None, records: Sequence[Record] = ()
) -> tuple[tuple[str, str], ...]:
    """Run and environment as names and values; what is unknown is left out."""
    facts: list[tuple[str, str]] = []
    if info is not None:
        facts += [
            ("run", info.run_id),
            ("command", info.command),
            ("model", info.model),
            ("started", info.started_at),
            ("ended", info.ended_at or "not ended"),
            ("inputs", " ".join(protocol_values(records, "inputs"))),
            *info.tags,
        ]
    if environment is not None:
        device = environment.device
        memory = capacity(device.memory_bytes) if device.memory_bytes else ""
        units = str(device.num_compute_units) if device.num_compute_units else ""
        changed = " with local changes" if environment.has_local_changes else ""
        facts += [
            ("device", device.name),
            ("memory", memory),
            ("compute units", units),
            ("driver", device.driver),
            ("runtime", device.runtime),
            ("back-end", device.backend),
            ("telemetry", device.telemetry),
            ("host", environment.host),
            ("processor", f"{environment.processor}, {environment.num_cores} cores"),
            ("operating system", environment.operating_system),
            ("python", environment.python),
            *environment.versions,
            (
                "commit",
                f"{environment.commit} on {environment.branch}{changed}"
                if environment.commit
                else "",
            ),
            *environment.variables,
        ]
    return tuple((name, value) for name, value in facts if value)
