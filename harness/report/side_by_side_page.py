"""The page of projections side by side; one file that loads nothing."""

from collections.abc import Mapping, Sequence
from html import escape

from harness.projection import Projection
from harness.report.elements import bullets, definitions, frame, plain_table, plot, section
from harness.report.rows import percent_text
from harness.report.scaling_plot import linear_from, per_chip, scaling_points
from harness.report.side_by_side_plots import bill_figure, colors, scaling_figure, useful_figure
from harness.report.side_by_side_rows import (
    AGAINST_HEADS,
    BEST_MARK,
    HEADS,
    NOTE,
    against_rows,
    best_columns,
    best_sentence,
    cells,
    confidence_text,
    price_sentences,
)
from harness.results import projection_headline
from harness.side_by_side import Pair, SideBySide

Key = tuple[str, str]
"""Model and cluster."""


def render(
    *,
    compared: SideBySide,
    projections: Mapping[Key, Projection],
    links: Mapping[Key, str],
) -> str:
    """The page.

    Args:
        compared: Every pair, also those without an outcome.
        projections: Whole projections by model and cluster, for their scaling curves.
        links: Where the report of each stands, from the page.
    """
    models = compared.models
    sections = [_table(compared, links)]
    names = [("table", "Side by side")]
    if projections:
        sections.append(_useful(compared))
        names.append(("useful", "Useful throughput"))
    for model in models:
        body = _model(compared, model, projections, links)
        if body:
            sections.append(
                section(f"model-{model}", model, best_sentence(model, compared.of(model)), body)
            )
            names.append((f"model-{model}", model))
    sections.append(_trust(compared))
    names.append(("trust", "What each rests on"))
    clusters = {pair.cluster for pair in compared.pairs}
    return frame(
        f"{_counted(len(models), 'model')} on {_counted(len(clusters), 'cluster')}",
        [best_sentence(model, compared.of(model)) for model in models],
        "",
        names,
        sections,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


def _table(compared: SideBySide, links: Mapping[Key, str]) -> str:
    heads = "".join(
        f'<th scope="col"{" class=number" if place > 1 else ""}>{escape(head)}</th>'
        for place, head in enumerate(("model", *HEADS, "plan"))
        if place
    )
    heads = heads.replace("class=number>plan", ">plan")
    body = ""
    for model in compared.models:
        pairs = compared.of(model)
        best = best_columns(pairs)
        body += f'<tr><th scope="rowgroup" colspan="{len(HEADS) + 1}">{escape(model)}</th></tr>'
        body += "".join(_row(pair, best.get(pair.cluster, frozenset()), links) for pair in pairs)
    table = (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )
    return section("table", "Side by side", NOTE, table)


def _row(pair: Pair, best: frozenset[int], links: Mapping[Key, str]) -> str:
    link = links.get((pair.model, pair.cluster))
    name = escape(pair.cluster)
    first = f'<td><a href="{escape(link)}">{name}</a></td>' if link else f"<td>{name}</td>"
    if pair.outcome is None:
        reason = f'<td class="reason" colspan="{len(HEADS)}">{escape(pair.reason)}</td>'
        return f"<tr>{first}{reason}</tr>"
    numbers = "".join(
        f'<td class="number{" best" if place in best else ""}">'
        f"{escape(text)}{BEST_MARK if place in best else ''}</td>"
        for place, text in enumerate(cells(pair.outcome), 1)
    )
    return f'<tr>{first}{numbers}<td class="reason">{escape(pair.outcome.plan)}</td></tr>'


def _useful(compared: SideBySide) -> str:
    summary = " ".join(best_sentence(model, compared.of(model)) for model in compared.models)
    note = (
        "Tokens left after failures, per second of the wall clock; whiskers from P10 to P90. "
        "Whiskers of two clusters hold what both share, so the ratios below tell them apart better."
    )
    return section(
        "useful", "Useful throughput", note, plot(useful_figure(compared), "useful", summary)
    )


def _model(
    compared: SideBySide,
    model: str,
    projections: Mapping[Key, Projection],
    links: Mapping[Key, str],
) -> str:
    """Ratios to the best, scaling, power and cost, and each projection in a line."""
    found = [projections[key] for key in projections if key[0] == model]
    if not found:
        return ""
    body = ""
    rows = against_rows(compared.of(model))
    if len(rows) > 1:
        body += "<h3>Against the best</h3>" + plain_table(
            AGAINST_HEADS, rows, num_texts=len(AGAINST_HEADS)
        )
    ends = ", ".join(f"{one.cluster} {percent_text(_of_linear(one))} of linear" for one in found)
    body += "<h3>Throughput against the number of chips</h3>"
    body += plot(scaling_figure(found, colors(compared)), f"scaling-{model}", f"Scaling: {ends}")
    bill = bill_figure(compared, model)
    if bill is not None:
        numbers = ", ".join(
            f"{pair.cluster} {' '.join(cells(pair.outcome)[4:])}"
            for pair in compared.of(model)
            if pair.outcome is not None
        )
        body += "<h3>Power, energy and cost</h3>"
        body += plot(bill, f"bill-{model}", f"MW, J per token and cost: {numbers}")
    body += "<h3>Each projection</h3>" + _each(compared.of(model), projections, links)
    return body


def _of_linear(projection: Projection) -> float:
    """Tokens per second per chip of the whole cluster over those where a chip gives most."""
    return per_chip(projection.headline) / per_chip(linear_from(scaling_points(projection)))


def _each(
    pairs: Sequence[Pair], projections: Mapping[Key, Projection], links: Mapping[Key, str]
) -> str:
    items = ""
    for pair in pairs:
        key = (pair.model, pair.cluster)
        if pair.outcome is None:
            items += f"<li>{escape(pair.cluster)}: {escape(pair.reason)}</li>"
            continue
        held = pair.outcome.held_back_by
        text = projection_headline(projections[key])
        held = f" Held back by {held}." if held else ""
        items += (
            f"<li>{escape(text)}{escape(held)} "
            f'<a href="{escape(links[key])}">The whole projection</a></li>'
        )
    return f"<ul>{items}</ul>"


def _trust(compared: SideBySide) -> str:
    facts = [
        (f"{pair.model} on {pair.cluster}", confidence_text(pair.outcome))
        for pair in compared.pairs
        if pair.outcome is not None
    ]
    note = (
        "All are expectations of a model, none a measurement of a cluster, and they are not "
        "equally well founded."
    )
    body = definitions(facts) + bullets([*_batch_sentences(compared), *price_sentences(compared)])
    return section("trust", "What each rests on", note, body)


def _batch_sentences(compared: SideBySide) -> tuple[str, ...]:
    """What a token of these large batches is worth, for each model."""
    sentences = []
    for model in compared.models:
        shares = [
            pair.outcome.batch_share
            for pair in compared.of(model)
            if pair.outcome is not None and pair.outcome.batch_share is not None
        ]
        if shares:
            low, high = percent_text(min(shares)), percent_text(max(shares))
            each = low if low == high else f"{low} to {high}"
            sentences.append(
                f"{model}: a token of these batches teaches {each} of one in a small batch; none "
                "of the columns has it in it."
            )
    return tuple(sentences)
