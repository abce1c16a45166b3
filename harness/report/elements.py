"""What every page of a report is made of; all texts are escaped here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from harness.report.page import SCRIPT, STYLE

LONG_TABLE = 50
"""Rows from which a table is a window of its own with a filter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A section of a page and how the navigation calls it."""

    name: str
    """Its id, unique in the page."""
    title: str
    html: str


def part(name: str, title: str, note: str, body: str) -> Part:
    """A section with its place in the navigation."""
    return Part(name=name, title=title, html=section(name, title, note, body))


def data_script(text: str, attributes: str = "") -> str:
    """JSON inside a page: no text in it can end the element or open a comment."""
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json"{attributes}>{safe}</script>'


def plot(figure: go.Figure, name: str, summary: str) -> str:
    """A figure, drawn when it comes into sight, and its summary for those who cannot see it."""
    height = figure.layout.height
    return (
        f'<figure role="figure" aria-label="{escape(summary)}" data-plot>'
        f'<div class="plot" id="plot-{escape(name)}" style="--height: {height or 450}px"></div>'
        f"{data_script(figure.to_json(validate=False))}"
        f'<noscript><p class="note">{escape(summary)} (Scripts draw it.)</p></noscript></figure>'
    )


def section(name: str, title: str, note: str, body: str) -> str:
    """A part of the page with a title, a note below it and a body."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(title)}</h2>'
        f'<p class="note">{escape(note)}</p>{body}</section>'
    )


def definitions(facts: Sequence[tuple[str, str]]) -> str:
    """Names with their values."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{items}</dl>"


def bullets(sentences: Sequence[str]) -> str:
    """Sentences, one a line."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], num_texts: int = 1) -> str:
    """A table whose first columns are text and whose others are numbers; long ones are filtered."""
    kinds = [""] * num_texts + ["number"] * (len(heads) - num_texts)
    head = "".join(
        f'<th scope="col"{" class=" + kind if kind else ""}>{escape(name)}</th>'
        for name, kind in zip(heads, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=' + kind if kind else ''}>{escape(text)}</td>"
            for text, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    long = " data-long" if len(rows) > LONG_TABLE else ""
    return (
        f'<div class="scroll"><table{long}><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def together(sentence: str) -> str:
    """The sentence with its numbers and units on one line."""
    return re.sub(r"(?<=\d) (?=%|[A-Za-z]+/s|us|ms|s\b)", "&nbsp;", escape(sentence))


def figures_list(figures: Sequence[tuple[str, str]]) -> str:
    """The few numbers that a reader wants first, each with what it is."""
    items = "".join(
        f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in figures
    )
    return f'<ul class="figures">{items}</ul>'


def frame(
    title: str,
    sentences: Sequence[str],
    head: str,
    links: Sequence[tuple[str, str]],
    sections: Sequence[str],
) -> str:
    """The page; it loads nothing, so it works with no network.

    Args:
        title: What it is of.
        sentences: What came out, in large letters.
        head: HTML below them.
        links: Name and title of each section.
        sections: Their HTML.
    """
    navigation = "".join(f'<a href="#{name}">{escape(text)}</a>' for name, text in links)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>chipscale: {escape(title)}</title>"
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style>"
        "<script>document.documentElement.classList.add('scripted')</script></head><body><main>"
        f"<header><h1>chipscale: {escape(title)}</h1>"
        + "".join(f'<p class="headline">{together(sentence)}</p>' for sentence in sentences)
        + f'{head}<nav aria-label="Sections">{navigation}'
        f"</nav></header>{''.join(sections)}</main>{_plotly(sections)}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _plotly(sections: Sequence[str]) -> str:
    """The library of the plots, 4.8 MB, as text: `plots.js` starts it once the page is read.

    Running it takes longer than all else on a page of 2,000 cases.
    """
    if not any("data-plot" in html for html in sections):
        return ""
    return f'<script type="text/plain" id="plotly">{get_plotlyjs()}</script>'
