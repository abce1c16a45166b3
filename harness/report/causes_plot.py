"""A tornado chart: the step with each input alone at the ends of its P10 to P90."""

import plotly.graph_objects as go

from harness.projection import Projection
from harness.report.rows import percent_text
from harness.report.theme import GREY, PALETTE, label, styled
from harness.units import duration

ROW_HEIGHT = 40
ROOM_FOR_AXIS = 80
MOST_BARS = 12


def figure(projection: Projection) -> go.Figure:
    """The widest input at the top, each bar around the step as projected."""
    middle = projection.headline.step_time_s.value
    causes = projection.causes[:MOST_BARS][::-1]
    plot = go.Figure()
    for name, color, ends in (
        ("shorter", PALETTE[2], [min(cause.low_s, middle) for cause in causes]),
        ("longer", PALETTE[4], [max(cause.high_s, middle) for cause in causes]),
    ):
        plot.add_bar(
            x=[end - middle for end in ends],
            base=middle,
            y=[label(cause.title) for cause in causes],
            orientation="h",
            name=name,
            marker={"color": color},
            customdata=[
                [duration(cause.low_s), duration(cause.high_s), percent_text(cause.share)]
                for cause in causes
            ],
            hovertemplate="<b>%{y}</b><br>%{customdata[0]} to %{customdata[1]}<br>"
            "%{customdata[2]} of the variance<extra></extra>",
        )
    styled(plot, height=ROOM_FOR_AXIS + ROW_HEIGHT * len(causes), barmode="overlay")
    plot.add_vline(x=middle, line={"color": GREY, "dash": "dash"})
    plot.update_xaxes(title="seconds of one step")
    return plot
