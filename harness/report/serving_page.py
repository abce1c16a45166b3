"""The page of a projection of serving; one file that loads nothing."""

from collections.abc import Sequence

from harness.device.chip import ChipSpec
from harness.projection import OpShare
from harness.report import pareto_plot
from harness.report.elements import (
    bullets,
    definitions,
    figures_list,
    frame,
    plain_table,
    plot,
    section,
)
from harness.report.rows import NOT_AVAILABLE
from harness.report.serving_rows import (
    FRONT_HEADS,
    NUM_TEXTS,
    POOL_HEADS,
    ROLES,
    number_text,
    point_facts,
    pool_row,
    serving_facts,
)
from harness.serving_projection import ServingPool, ServingProjection, serving_headline
from harness.units import capacity, duration, significant, with_prefix

MAX_OPS = 40
OP_HEADS = ("op", "role", "problem", "from", "time")


def render(*, projection: ServingProjection, chip: ChipSpec | None = None) -> str:
    """The page of the projection; `chip` adds the source of its data sheet."""
    sections = [
        _best(projection),
        _front(projection),
        _others(projection),
        _ops(projection.ops),
        _trust(projection, chip),
    ]
    links = [
        ("best", "Best within the limits"),
        ("front", "Pareto front"),
        ("others", "Other modes"),
        ("ops", "Ops of a pass"),
        ("trust", "Taken on trust"),
    ]
    shown = [(name, title) for (name, title), body in zip(links, sections, strict=True) if body]
    best = projection.best
    joules, cost = best.tokens_per_joule, best.cost_per_million_tokens
    price = NOT_AVAILABLE
    if cost is not None:
        price = f"{best.currency} {significant(cost.value)}".lstrip()
    figures = [
        (with_prefix(best.tokens_per_s.value, "tokens/s"), f"out, {projection.num_chips:,} chips"),
        (with_prefix(best.tokens_per_s_per_chip.value, "tokens/s"), "out per chip"),
        (duration(best.ttft_s.value), "to the first token"),
        (duration(best.tpot_s.value), "per output token"),
        (NOT_AVAILABLE if joules is None else significant(joules), "output tokens per joule"),
        (price, "per million tokens"),
    ]
    return frame(
        f"serving {projection.model} on {projection.cluster}",
        (serving_headline(projection),),
        figures_list(figures),
        shown,
        [body for body in sections if body],
    )


def _best(projection: ServingProjection) -> str:
    body = definitions(serving_facts(projection))
    body += "<h3>Pools</h3>" + plain_table(
        POOL_HEADS, [pool_row(pool) for pool in projection.best.pools], num_texts=NUM_TEXTS
    )
    for pool in projection.best.pools:
        body += _pool(pool)
    note = (
        "A model of serving, with P10 to P90 of draws of its constants. It is an expectation, "
        "not a measurement of a cluster."
    )
    return section("best", "Best within the limits", note, body)


def _pool(pool: ServingPool) -> str:
    total = sum(part.seconds for part in pool.parts)
    rows = [
        (part.name, duration(part.seconds), f"{significant(100 * part.seconds / total, 2)} %")
        for part in pool.parts
    ]
    memory = tuple((name, capacity(size)) for name, size in pool.memory_parts)
    return (
        f"<h3>One pass over all layers of what {ROLES[pool.role]}</h3>"
        + plain_table(("what", "time", "share"), rows)
        + f"<h3>Memory per chip of what {ROLES[pool.role]}</h3>"
        + definitions(memory)
    )


def _front(projection: ServingProjection) -> str:
    if not projection.front:
        return ""
    rows = [
        (
            point.label,
            str(point.mode),
            number_text(point.tokens_per_s_per_user),
            number_text(point.tokens_per_s_per_chip),
            significant(point.sequences_per_chip),
        )
        for point in projection.front
    ]
    ends = projection.front[0], projection.front[-1]
    summary = "Pareto front from " + " to ".join(
        f"{significant(end.tokens_per_s_per_chip.value)} tokens/s per chip at "
        f"{significant(end.tokens_per_s_per_user.value)} tokens/s per user"
        for end in ends
    )
    note = (
        "Each point is a plan with a number of sequences that no other beats in both numbers; the "
        "limit on the first token holds on all of them."
    )
    body = plot(pareto_plot.figure(projection), "pareto", summary)
    return section("front", "Pareto front", note, body + plain_table(FRONT_HEADS, rows, NUM_TEXTS))


def _others(projection: ServingProjection) -> str:
    body = ""
    for point in projection.others:
        body += f"<h3>{point.mode}</h3>" + definitions(point_facts(point))
        body += plain_table(
            POOL_HEADS, [pool_row(pool) for pool in point.pools], num_texts=NUM_TEXTS
        )
    note = "The best of the modes that serve less within the same limits."
    return section("others", "Other modes", note, body) if body else ""


def _ops(ops: Sequence[OpShare]) -> str:
    rows = [
        (share.op, share.role, share.problem_id, str(share.source), duration(share.seconds))
        for share in ops[:MAX_OPS]
    ]
    note = (
        f"Compute of one pass of each pool over all layers: the {len(rows)} longest of {len(ops)}."
    )
    return section("ops", "Ops of a pass", note, plain_table(OP_HEADS, rows, 4)) if rows else ""


def _trust(projection: ServingProjection, chip: ChipSpec | None) -> str:
    body = bullets(projection.assumptions)
    if chip is not None:
        body += definitions((("data sheet of the chip", chip.source),))
    return section("trust", "Taken on trust", "What follows from nothing measured here.", body)
