"""What all plots share: colours that colour-blind readers can tell apart, and light or dark.

Backgrounds are transparent and texts take the page's colour, so that one figure serves both.
"""

import re
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#D55E00",
    "#56B4E9",
    "#8C6BB1",
    "#A6761D",
    "#7F7F7F",
)
"""Okabe and Ito, Color Universal Design (2008); their yellow left out, three added."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross")
GREY = "#8a8f98"
GRID = "rgba(128,128,128,0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def by_name(names: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """One of the values for each distinct name, in first-seen order, starting again at the end."""
    distinct = dict.fromkeys(names)
    return {name: values[index % len(values)] for index, name in enumerate(distinct)}


def label(text: str, width: int = 26) -> str:
    """A name as a label: wrapped, and with what plotly would read as markup made plain.

    Lines end at spaces and, as names of ops have none, behind dots.
    """
    lines = [""]
    for piece in re.split(r"(?<=[ .])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    cut = [line for whole in lines for line in textwrap.wrap(whole, width)]
    return "<br>".join(escape(line) for line in cut) or " "


def styled(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """The figure with the common look."""
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13},
        margin={"l": 60, "r": 16, "t": 16, "b": 48},
        hoverlabel={"font": {"family": FONT}, "align": "left"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
    )
    figure.update_layout(**layout)
    figure.update_xaxes(gridcolor=GRID, zeroline=False, automargin=True, linecolor=GRID)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True, linecolor=GRID)
    return figure
