import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from harness.projection import StepPart
from harness.report import html, scaling_plot
from harness.results import Roofs
from tests.harness.sample_run import (
    CHIP,
    sample_environment,
    sample_info,
    sample_projection,
    sample_records,
    sample_search,
)

EVIL = "</script><script>alert(1)</script>"
VOID = {"meta", "link", "input", "br", "img", "col"}


class Page(HTMLParser):
    """Checks that elements close in order, and keeps what the page would load and run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [values["id"]] if values.get("id") else []
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)


def rendered(**changes: object) -> str:
    values: dict[str, object] = {
        "records": sample_records(),
        "info": sample_info(),
        "environment": sample_environment(),
        "projection": sample_projection(),
        "chip": CHIP,
    }
    return html.render(**(values | changes))  # type: ignore[arg-type]


PAGE = rendered()


def test_the_page_is_well_formed_and_its_ids_are_unique() -> None:
    page = Page(PAGE)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_loads_nothing() -> None:
    links = Page(PAGE).links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in PAGE.partition("<script>")[0]
    assert PAGE.count("plotly.js v") == 1


def test_every_link_of_the_navigation_has_its_section() -> None:
    page = Page(PAGE)
    targets = [link[1:] for link in page.links if link.startswith("#")]
    assert targets == [
        "environment",
        "roofline",
        "roof-share",
        "cases",
        "distributions",
        "projection",
        "method",
        "roofs",
    ]
    assert set(targets) <= set(page.ids)


def test_the_verdict_comes_first() -> None:
    words = " ".join(" ".join(Page(PAGE).words).split())
    verdict = words.index("quick on Imaginary X1: 5 of 54 cases failed")
    assert verdict < words.index("llama3_405b on 100,000 x imaginary_x1")
    assert verdict < words.index("Roofline")


def test_every_case_is_in_the_table_with_status_and_reason() -> None:
    table = PAGE[PAGE.index("<tbody>") : PAGE.index("</tbody>")]
    assert table.count("<tr") == 54
    for words in ("out of memory", "Wanted 16.0 GiB with 3.1 GiB free.", "unsupported", "timeout"):
        assert words in table


def test_plots_hold_the_data_of_cases_and_projection() -> None:
    page = Page(PAGE)
    scripts = "".join(page.scripts)
    for name in ("roofline", "roof-share", "spread", "scaling", "breakdown", "ops"):
        assert f"plot-{name}" in page.ids
    for word in (
        "measured roof, bf16",
        "data-sheet roof, bf16",
        "swiglu.bf16.forward",
        "linear from 8 chips",
        "90 % interval",
        "pipeline bubble",
        "100,000 chips",
    ):
        assert json.dumps(word)[1:-1] in scripts


def test_names_from_outside_are_text_and_never_markup() -> None:
    records = list(sample_records())
    case = dataclasses.replace(records[0].case, impl=EVIL)
    records[0] = dataclasses.replace(records[0], case=case)
    records[-1] = dataclasses.replace(records[-1], reason=EVIL)
    projection = dataclasses.replace(
        sample_projection(),
        model=EVIL,
        parts=(StepPart(name=EVIL, seconds=12.0),),
        assumptions=(EVIL,),
    )
    page = rendered(
        records=records,
        projection=projection,
        info=sample_info(suite=EVIL, tags=((EVIL, EVIL),)),
        environment=dataclasses.replace(sample_environment(), host=EVIL, warnings=(EVIL,)),
    )
    assert Page(page).open == []
    assert len(Page(page).scripts) == len(Page(PAGE).scripts)
    assert "<script>alert" not in page


def test_other_kinds_of_plan_are_told() -> None:
    projection = dataclasses.replace(sample_projection(), search=sample_search())
    page = html.render(projection=projection)
    assert "<h3>Next best of another kind</h3>" in page
    assert "TP8 PP8 DP781 CP2 ZeRO-1 10x microbatch 1" in page
    assert "held back by" in page


def test_a_projection_alone_and_a_run_alone_are_pages() -> None:
    alone = Page(html.render(projection=sample_projection()))
    assert "projection" in alone.ids
    assert "cases" not in alone.ids
    run = Page(html.render(records=sample_records(), info=sample_info()))
    assert "cases" in run.ids
    assert "projection" not in run.ids


def test_a_run_without_a_single_time_is_a_page() -> None:
    failed = [record for record in sample_records() if record.measurement is None]
    page = html.render(records=failed, info=sample_info())
    assert "nothing could be measured" in page


def test_a_chip_without_a_data_sheet_shows_not_available() -> None:
    unknown = dataclasses.replace(CHIP, peak_flops_per_s=(), memory_bandwidth_bytes_per_s=None)
    page = rendered(chip=unknown)
    assert re.search(r"data sheet</dt><dd>n/a", page)
    assert "data-sheet roof" not in "".join(Page(page).scripts)


def test_warnings_of_the_environment_are_in_sight() -> None:
    notice = PAGE[PAGE.index('class="warning"') : PAGE.index("<nav")]
    assert "load was 6.1 on 8 cores" in notice
    assert "local changes" in notice


def test_roofs_that_were_not_measured_are_not_drawn() -> None:
    from harness.report.roofline_plot import figure
    from harness.results import result_rows

    names = [trace.name for trace in figure(result_rows(sample_records(), Roofs()), Roofs()).data]
    assert not any("roof" in name for name in names)


def test_no_point_of_the_scaling_plot_is_above_linear() -> None:
    projection = sample_projection()
    first, *others = projection.scaling
    slow = dataclasses.replace(
        first,
        tokens_per_second=dataclasses.replace(
            first.tokens_per_second, value=first.tokens_per_second.value / 2
        ),
    )
    figure = scaling_plot.figure(dataclasses.replace(projection, scaling=(slow, *others)))
    (lower,) = (
        trace
        for trace in figure.data
        if trace.name == "best plan at each number" and not trace.showlegend
    )
    assert max(lower.y) == pytest.approx(100)
    assert f"linear from {others[0].num_chips:,} chips" in {trace.name for trace in figure.data}
