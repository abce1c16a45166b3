"""Where the wall time goes against the number of chips: training, and what failures take of it."""

from collections.abc import Sequence

import plotly.graph_objects as go

from harness.projection import Projection, ScalePoint
from harness.report.theme import PALETTE, label, styled

HEIGHT = 380


def timed_points(projection: Projection) -> tuple[ScalePoint, ...]:
    """Points whose wall time is taken apart, from few chips to many."""
    points = {point.num_chips: point for point in (*projection.scaling, projection.headline)}
    return tuple(points[chips] for chips in sorted(points) if points[chips].wall_time is not None)


def _shares(points: Sequence[ScalePoint]) -> dict[str, list[float]]:
    """Shares of the wall time by name, one for each point; training first, then largest first."""
    found: dict[str, list[float]] = {"training": []}
    for place, point in enumerate(points):
        assert point.wall_time is not None, "only timed points are shown"
        losses = (("training", point.wall_time.share), *point.wall_time.losses)
        for name, share in losses:
            values = found.setdefault(name, [])
            values += [0.0] * (place - len(values))
            values.append(share)
    for values in found.values():
        values += [0.0] * (len(points) - len(values))
    first, *rest = found.items()
    return dict([first, *sorted(rest, key=lambda entry: -entry[1][-1])])


def figure(projection: Projection) -> go.Figure:
    """Areas that add up to all of the time, on a logarithmic axis of chips."""
    points = timed_points(projection)
    chips = [point.num_chips for point in points]
    plot = go.Figure()
    for place, (name, shares) in enumerate(_shares(points).items()):
        plot.add_scatter(
            x=chips,
            y=[100 * share for share in shares],
            mode="lines",
            line={"width": 0.5, "color": PALETTE[place % len(PALETTE)]},
            stackgroup="wall time",
            name=label(name, 40),
            hovertemplate="%{x:,} chips<br>%{y:.3g} % " + label(name, 40) + "<extra></extra>",
        )
    styled(plot, height=HEIGHT)
    plot.update_xaxes(type="log", dtick=1, title="chips")
    plot.update_yaxes(title="% of the wall time", range=[0, 100])
    return plot
