"""A gate's result as one HTML file that loads nothing: verdict, plots and every case."""

import re
from html import escape

from harness.gate.words import with_interval
from harness.gate_result import GateCase, GateResult, State
from harness.report.elements import (
    bullets,
    definitions,
    figures_list,
    frame,
    plot,
    section,
)
from harness.report.gate_plot import MAX_FOREST, all_figure, forest_cases, forest_figure
from harness.report.gate_rows import (
    MEANING,
    clocks_text,
    exemption_text,
    facts,
    flagged,
    notes,
    ordered,
    rounds_text,
    seconds_text,
    state_text,
    tolerance_text,
)
from harness.units import signed_percent

COLUMNS = (
    ("state", ""),
    ("change", "number"),
    ("case", ""),
    ("base", "number"),
    ("head", "number"),
    ("interval", "number"),
    ("tolerance", "number"),
    ("why", ""),
)
"""What matters most stands first, where a telephone shows it."""
KIND: dict[State, str] = {
    State.REGRESSED: "bad",
    State.INVALID: "bad",
    State.IMPROVED: "ok",
}


def render(result: GateResult) -> str:
    """The page."""
    found = flagged(result)
    drawn = forest_cases(found)
    sections, links = [], []
    if drawn:
        note = (
            "Head over base: the filled mark is the change over all rounds with its interval; "
            "circles are the rounds of the screen and diamonds those that confirmed, each with a "
            "fresh process of either side. The band is the tolerance: a change inside it is none."
        )
        if len(drawn) == MAX_FOREST:
            note += f" The first {MAX_FOREST} are drawn, the table has all."
        summary = "; ".join(f"{case.case_id} {_change(case)}" for case in drawn[:10])
        figure = plot(forest_figure(drawn), "changes", f"Changes: {summary}")
        sections.append(section("changes", "What is told", note, figure))
        links.append(("changes", "What is told"))
    judged = [case for case in result.cases if case.change is not None]
    if judged:
        note = "Every case that could be judged, between its tolerances."
        summary = f"{len(judged)} changes, from {_ends(result)}"
        figure = plot(all_figure(judged), "all", summary)
        sections.append(section("all", "All changes", note, figure))
        links.append(("all", "All changes"))
    if result.cases:
        sections.append(_cases(result))
        links.append(("cases", "All cases"))
    sections.append(_comparison(result))
    links.append(("comparison", "What was compared"))
    warnings = notes(result)
    notice = f'<div class="warning" role="note">{bullets(warnings)}</div>' if warnings else ""
    accepted = len(result.of(State.REGRESSED)) - result.num_failing
    counts = [
        (f"{count - accepted if state is State.REGRESSED else count:,}", state.value.lower())
        for state, count in result.counts
    ]
    if accepted:
        counts.insert(1, (f"{accepted:,}", "regressed, accepted"))
    return frame(
        f"gate of {result.suite} on {result.chip}",
        [f"{result.headline}."],
        f"{figures_list(counts)}{notice}",
        links,
        sections,
    )


def _change(case: GateCase) -> str:
    return signed_percent(case.change.value) if case.change is not None else ""


def _ends(result: GateResult) -> str:
    values = [case.change.value for case in result.cases if case.change is not None]
    return f"{signed_percent(min(values))} to {signed_percent(max(values))}"


def _cell(text: str, kind: str = "", value: float | None = None) -> str:
    sort = f' data-value="{"" if value is None else repr(value)}"' if kind == "number" else ""
    name = f" class={kind}" if kind else ""
    return f"<td{name}{sort}>{escape(text)}</td>"


def _cases(result: GateResult) -> str:
    heads = "".join(
        f'<th scope="col"{" class=" + kind if kind else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, kind in COLUMNS
    )
    body = "".join(_row(case) for case in ordered(result.cases))
    table = (
        '<input type="search" id="filter" placeholder="Filter: regressed gemm ..." '
        'aria-label="Show only cases with all of these words">'
        '<div class="scroll"><table data-sortable data-filter="filter">'
        f"<caption>{escape(result.headline)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
    note = "Worst first; times are medians of the rounds' medians, a heading sorts."
    return section("cases", "All cases", note, table)


def _row(case: GateCase) -> str:
    change = case.change
    kind = "" if case.exemption is not None else KIND.get(case.state, "")
    rank = f' data-value="{list(State).index(case.state):02d}"'
    title = " ".join(text for text in (case.op, case.mode, case.shape, case.dtype, case.impl))
    interval = ""
    if change is not None:
        interval = with_interval(change).partition(" % ")[2]
    cells = (
        f'<td{rank}><span class="{kind}">{escape(state_text(case))}</span></td>',
        _cell(_change(case), "number", change.value if change is not None else None),
        f'<td title="{escape(title)}" class="shape">{_breakable(case.case_id)}</td>',
        _cell(seconds_text(case.base_s), "number", case.base_s),
        _cell(seconds_text(case.head_s), "number", case.head_s),
        _cell(interval, "number", change.high - change.low if change is not None else None),
        _cell(tolerance_text(case).partition(":")[0], "number", case.tolerance),
        f"<td>{_why(case)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _breakable(case_id: str) -> str:
    """The id with places where a narrow column may break it."""
    return re.sub(r"(?=\[)|(?<=[/,.])", "<wbr>", escape(case_id))


def _why(case: GateCase) -> str:
    if case.state is State.UNCHANGED:
        return ""
    clocks = clocks_text(case)
    lines = (
        case.reason,
        exemption_text(case),
        f"Tolerance {tolerance_text(case)}." if case.change is not None else "",
        ", ".join(
            text for text in (rounds_text(case), f"clock {clocks}" if clocks else "") if text
        ),
    )
    body = "".join(f'<div class="reason">{escape(line)}</div>' for line in lines if line)
    if case.reproduce:
        body += (
            "<details><summary>Measure again</summary>"
            f"<code>{escape(case.reproduce)}</code></details>"
        )
    return body


def _comparison(result: GateResult) -> str:
    body = definitions(facts(result))
    for role, arm in (("Base", result.base), ("Head", result.head)):
        told = (
            ("commit", arm.commit),
            ("branch", arm.branch),
            *arm.versions,
            ("run folders", ", ".join(arm.run_ids)),
        )
        body += f"<h3>{role}</h3>{definitions([(name, text) for name, text in told if text])}"
    if result.ui_links:
        links = "".join(
            f'<li><a href="{escape(link)}">{escape(role)} in MLflow</a></li>'
            for role, link in result.ui_links
            if link.startswith(("http://", "https://"))
        )
        body += f"<h3>MLflow</h3><ul>{links}</ul>"
    meanings = [(state.value, MEANING[state]) for state, _ in result.counts]
    body += f"<h3>What the states mean</h3>{definitions(meanings)}"
    note = "Both sides, and where these numbers come from; gate.json beside this file has all."
    return section("comparison", "What was compared", note, body)
