"""A trend as one HTML page: the changes, and each case over its runs."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from harness.report.elements import bullets, figures_list, frame, plain_table, plot, section
from harness.report.theme import GREY, PALETTE, styled
from harness.report.trend_rows import (
    HEADS,
    NOTE,
    change_rows,
    headline,
    left_out_sentence,
    shared_sentence,
)
from harness.trend import CaseTrend, HistoryRun, Trend
from harness.units import percent, signed_percent

MAX_PLOTS = 24
"""Cases with a plot of their own, the newest changes first; the table has all."""
HEIGHT = 260


def render(trend: Trend) -> str:
    """The page; it loads nothing."""
    links, sections = [("changes", "Changes")], [_changes(trend)]
    shown = trend.changed[:MAX_PLOTS]
    if shown:
        links.append(("cases", "Cases that changed"))
        sections.append(_cases(shown, trend.runs))
    links.append(("all", "All cases"))
    sections.append(_all(trend))
    figures = [
        (f"{len(trend.runs)}", "runs"),
        (f"{len(trend.changed)} of {len(trend.cases)}", "cases changed"),
        (trend.branch or "unknown", "branch"),
        (trend.fingerprint, "machine"),
    ]
    return frame(
        f"trend of {trend.suite} on {trend.chip}",
        [headline(trend)],
        figures_list(figures),
        links,
        sections,
    )


def _changes(trend: Trend) -> str:
    said = [shared_sentence(one, trend) for one in trend.shared_changes]
    said += [text for text in (left_out_sentence(trend),) if text]
    body = bullets(said) if said else ""
    rows = change_rows(trend.changed)
    if rows:
        body += plain_table(HEADS, rows)
    return section("changes", "Changes", NOTE, body)


def _cases(cases: Sequence[CaseTrend], runs: Sequence[HistoryRun]) -> str:
    started = {run.run_id: run.started_at for run in runs}
    commit = {run.run_id: run.commit[:10] or "unknown" for run in runs}
    body = "".join(
        f"<h3>{escape(case.case_id)}</h3>"
        + plot(
            _case_figure(case, started, commit),
            f"case-{number}",
            f"{case.case_id} over {len(case.run_ids)} runs",
        )
        for number, case in enumerate(cases)
    )
    note = "Median of each run, and the level between two changes."
    return section("cases", "Cases that changed", note, body)


def _case_figure(case: CaseTrend, started: dict[str, str], commit: dict[str, str]) -> go.Figure:
    times = [started[run_id] for run_id in case.run_ids]
    micros = [median_s * 1e6 for median_s in case.medians_s]
    figure = go.Figure()
    figure.add_scatter(
        x=times,
        y=micros,
        mode="markers",
        marker={"color": PALETTE[0], "size": 7},
        name="run",
        customdata=[[commit[run_id], run_id] for run_id in case.run_ids],
        hovertemplate="%{y:.4g} us<br>%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
    )
    edges = [0, *(change.index for change in case.change_points), len(times)]
    levels = [
        *(change.before_s for change in case.change_points),
        case.change_points[-1].after_s,
    ]
    for first, after, level_s in zip(edges, edges[1:], levels, strict=False):
        figure.add_scatter(
            x=[times[first], times[after - 1]],
            y=[level_s * 1e6] * 2,
            mode="lines",
            line={"color": GREY, "width": 2},
            showlegend=False,
            hoverinfo="skip",
        )
    styled(figure, height=HEIGHT)
    figure.update_layout(showlegend=False)
    figure.update_yaxes(title="us", rangemode="normal")
    return figure


def _all(trend: Trend) -> str:
    rows = [
        (
            case.case_id,
            str(len(case.medians_s)),
            f"{case.medians_s[-1] * 1e6:.4g}",
            percent(case.noise),
            f"{case.correlation:.2f}",
            signed_percent(case.latest_change.change.value) if case.latest_change else "",
        )
        for case in trend.cases
    ]
    heads = ("case", "runs", "newest, us", "noise", "alike neighbours", "last change")
    note = (
        "Noise is the robust standard deviation from run to run between changes; neighbours that "
        "are alike, as the correlation of one run with the next tells, hide it."
    )
    return section("all", "All cases", note, plain_table(heads, rows))
