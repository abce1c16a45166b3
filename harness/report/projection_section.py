"""What a run lets one expect of a cluster, with its interval and what to measure next."""

from html import escape

from harness.projection import Projection
from harness.report import breakdown_plot, causes_plot, ops_plot, scaling_plot, wall_time_plot
from harness.report.at_scale import goodput_rows, power_rows
from harness.report.elements import Part, bullets, definitions, part, plain_table, plot
from harness.report.rows import (
    ALTERNATIVE_HEADS,
    ALTERNATIVES_TITLE,
    CAUSE_HEADS,
    CAUSES_TITLE,
    alternative_rows,
    cause_rows,
    confidence_text,
    next_measurement,
    projection_facts,
)
from harness.results import projection_headline
from harness.units import capacity, duration


def projection_part(projection: Projection) -> Part:
    """The section: facts, scaling, the step taken apart, and what would narrow the interval."""
    point = projection.headline
    scaling = plot(
        scaling_plot.figure(projection),
        "scaling",
        f"Throughput against the number of chips, up to {point.num_chips} chips: "
        f"{projection_headline(projection)}",
    )
    parts = ", ".join(f"{part.name} {duration(part.seconds)}" for part in projection.parts)
    body = [
        definitions(projection_facts(projection)),
        "<h3>Throughput against the number of chips</h3>",
        scaling,
        "<h3>One step, taken apart</h3>",
        plot(breakdown_plot.figure(projection), "breakdown", f"One step: {parts}"),
    ]
    if projection.ops:
        body += [
            "<h3>Compute by op, and where each time comes from</h3>",
            plot(ops_plot.figure(projection), "ops", "Compute of a step by op and source"),
        ]
    body += _at_scale(projection)
    if projection.memory_parts:
        memory = tuple((name, capacity(size)) for name, size in projection.memory_parts)
        body += ["<h3>Memory per chip</h3>", definitions(memory)]
    if projection.search is not None and projection.search.alternatives:
        rows = [(name, margin, time) for name, time, margin in alternative_rows(projection.search)]
        heads = (ALTERNATIVE_HEADS[0], ALTERNATIVE_HEADS[2], ALTERNATIVE_HEADS[1])
        body += [f"<h3>{ALTERNATIVES_TITLE}</h3>", plain_table(heads, rows, num_texts=2)]
    if projection.causes:
        ends = ", ".join(f"{title} {share}" for title, share, *_ in cause_rows(projection))
        body += [
            f"<h3>{CAUSES_TITLE}</h3>",
            plot(causes_plot.figure(projection), "causes", f"Shares of the variance: {ends}"),
            plain_table(
                (CAUSE_HEADS[0], CAUSE_HEADS[3], *CAUSE_HEADS[1:3]),
                [(title, advice, *rest) for title, *rest, advice in cause_rows(projection)],
                num_texts=2,
            ),
        ]
        advice = next_measurement(projection)
        body += [f"<p>{escape(advice)}</p>"] if advice else []
    if projection.assumptions:
        body += ["<h3>Taken on trust</h3>", bullets(projection.assumptions)]
    note = (
        f"A model of one training step, with its {confidence_text(projection)}. "
        "It is an expectation, not a measurement of a cluster."
    )
    return part("projection", "Projection", note, "".join(body))


def _at_scale(projection: Projection) -> list[str]:
    """Wall time and power, where the cluster's file says enough for them."""
    point = projection.headline
    body = []
    if point.wall_time is not None:
        shares = ", ".join(" ".join(row) for row in goodput_rows(point))
        body += [
            "<h3>Wall time, taken apart</h3>",
            definitions(goodput_rows(point)),
            plot(wall_time_plot.figure(projection), "wall-time", f"The wall time: {shares}"),
        ]
    if point.energy is not None:
        body += ["<h3>Power of the site</h3>", definitions(power_rows(point))]
    return body
