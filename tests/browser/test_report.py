"""The report of a run in a real browser: what a person does with it, and what must not happen."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.record import Record
from harness.report import html
from tests.browser.report_runs import hostile_run, large_run, old_run
from tests.harness.sample_run import (
    CHIP,
    sample_environment,
    sample_info,
    sample_projection,
    sample_records,
)

NUM_CASES = 2000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SLOWER = 3
"""A busy host of CI may take so many times the seconds that a page may take."""


def written(path: Path, **parts: Any) -> str:
    path.write_text(html.render(**parts), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def small(folder: Path) -> str:
    """A run of 54 cases and its projection."""
    records = tuple(large_run(48)) + sample_records()[-6:]
    return written(
        folder / "small.html",
        records=records,
        info=sample_info(),
        environment=sample_environment(),
        projection=sample_projection(),
        chip=CHIP,
    )


@pytest.fixture(scope="module")
def large(folder: Path) -> str:
    """A run of 2,000 cases."""
    return written(
        folder / "large.html",
        records=large_run(NUM_CASES, num_samples=100),
        info=sample_info(num_cases=NUM_CASES),
        environment=sample_environment(),
        chip=CHIP,
    )


class Opened:
    """A page in a context of its own, and what went wrong in it: it may ask for nothing."""

    def __init__(self, browser: Any, address: str, **look: Any) -> None:
        self.wrong: list[str] = []
        self.context = browser.new_context(**({"viewport": DESKTOP} | look))
        self.page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", self._console)
        self.page.goto(address)

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"request: {request.url}")

    def _console(self, line: Any) -> None:
        if line.type in ("error", "warning"):
            self.wrong.append(line.text)


@contextmanager
def opened(browser: Any, address: str, **look: Any) -> Iterator[Any]:
    """The page alone, closed with a check that nothing went wrong in it."""
    one = Opened(browser, address, **look)
    yield one.page
    one.context.close()
    assert one.wrong == []


@pytest.fixture(scope="module")
def desk(browser: Any, small: str) -> Iterator[Opened]:
    """The small run at desktop width, its plots drawn; opening it again takes a second."""
    one = Opened(browser, small)
    scroll_through(one.page)
    yield one
    one.context.close()


@pytest.fixture
def page(desk: Opened) -> Iterator[Any]:
    """The page of the small run as it was when opened."""
    desk.page.evaluate(
        """() => {
          for (const one of document.querySelectorAll('.facet[open]')) one.open = false;
          for (const one of document.querySelectorAll('tr.detail')) one.previousSibling.click();
          document.querySelector('.controls button').click();
        }"""
    )
    yield desk.page
    assert desk.wrong == []


@pytest.fixture(scope="module")
def wide(browser: Any, large: str) -> Iterator[Any]:
    """The page of 2,000 cases."""
    with opened(browser, large) as page:
        plots_ready(page)
        yield page


def column(page: Any, number: int) -> list[str]:
    return page.locator(f"#case-table tbody tr > :nth-child({number})").all_inner_texts()


def count(page: Any) -> str:
    return page.locator(".controls output").inner_text()


def plots_ready(page: Any) -> None:
    page.wait_for_function("window.Plotly")


def scroll_through(page: Any) -> None:
    """Have every plot drawn."""
    plots_ready(page)
    for figure in page.locator("figure[data-plot]").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()


def colour_of(page: Any, selector: str, what: str) -> tuple[int, ...]:
    found = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}")
    return tuple(int(number) for number in re.findall(r"\d+", found)[:3])


def test_a_heading_sorts_by_number_up_down_and_back(page: Any) -> None:
    head = page.locator("#case-table thead th", has_text="median")
    first = column(page, 1)

    def medians() -> list[float]:
        shown = page.locator("#case-table tbody td:nth-child(5)")
        values = shown.evaluate_all("cells => cells.map(cell => cell.dataset.value)")
        # What has no time is last, whichever way.
        assert "" not in values[: len(values) - values.count("")]
        return [float(value) for value in values if value]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert medians() == sorted(medians())
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert medians() == sorted(medians(), reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, 1) == first


def test_words_and_facets_filter_together_and_say_how_many(wide: Any) -> None:
    assert count(wide) == "2,000 cases"
    wide.locator("input[type=search]").fill("rms_norm backward")
    num_words = int(count(wide).split()[0].replace(",", ""))
    assert 0 < num_words < NUM_CASES
    wide.locator("[data-facet=implementation] summary").click()
    label = wide.locator("[data-facet=implementation] label", has_text="triton")
    num_triton = int(label.locator("span").inner_text())
    label.locator("input").check()
    assert count(wide) == f"{num_triton} of 2,000"
    assert set(column(wide, 4)) == {"triton"}
    # The counts of a facet are what choosing there would show, its own choice aside.
    others = wide.locator("[data-facet=implementation] label span").all_inner_texts()
    assert sum(map(int, others)) == num_words
    wide.get_by_role("button", name="Clear").click()
    assert count(wide) == "2,000 cases"


def test_a_filter_that_leaves_nothing_says_so(page: Any) -> None:
    page.locator("input[type=search]").fill("no such kernel")
    assert count(page) == "0 of 54"
    assert "None of the 54 cases" in page.locator(".rest").inner_text()


def test_status_and_remark_are_facets_too(page: Any) -> None:
    page.locator("[data-facet=status] summary").click()
    page.locator("[data-facet=status] label", has_text="out_of_memory").click()
    assert count(page) == "1 of 54"
    assert "Wanted 16.0 GiB" in column(page, 9)[0]
    page.get_by_role("button", name="Clear").click()
    page.locator("[data-facet=remark] summary").click()
    page.locator("[data-facet=remark] label", has_text="some throttled").click()
    assert 0 < int(count(page).split()[0]) < 54


def test_the_table_is_worked_by_keyboard(page: Any) -> None:
    page.locator("input[type=search]").focus()
    page.keyboard.type("swiglu")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("[data-facet=op]").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("[data-facet=op]").get_attribute("open") is None
    page.locator("#case-table tbody th button").first.focus()
    page.keyboard.press("Enter")
    page.locator("tr.detail .main-svg").first.wait_for()
    page.keyboard.press("Enter")
    assert page.locator("tr.detail").count() == 0


def test_a_row_opens_its_samples_with_outliers_and_throttled_windows(page: Any) -> None:
    page.locator("[data-facet=remark] summary").click()
    page.locator("[data-facet=remark] label", has_text="some throttled").click()
    page.locator("#case-table tbody td").nth(1).click()
    detail = page.locator("tr.detail")
    detail.locator(".main-svg").first.wait_for()
    drawn = detail.locator(".js-plotly-plot").evaluate(
        "p => p.data.filter(one => one.type === 'scatter')"
        ".map(one => [one.name.split(' ')[0], one.x.length, Math.min(...one.x)])"
    )
    kinds = {name: (number, first) for name, number, first in drawn}
    assert kinds["throttled"] == (50, 100)
    assert sum(number for number, _ in kinds.values()) == 300
    words = detail.inner_text()
    assert "300 samples" in words
    assert "50 while throttled" in words
    assert "The interval of the median is 0.9 % of it" in words
    button = page.locator("#case-table tbody th button[aria-expanded=true]")
    button.click()
    assert page.locator("tr.detail").count() == 0


def test_a_mark_of_the_roofline_leads_to_its_case(page: Any) -> None:
    name = page.evaluate(
        "() => { const p = document.querySelector('#plot-roofline'); const one = p.data.find("
        "t => t.customdata); p.emit('plotly_click', {points: [{customdata: one.customdata[0]}]"
        "}); return one.customdata[0][0]; }"
    )
    assert name in page.locator("tr.detail").inner_text()


def test_samples_of_a_page_are_those_of_the_records(page: Any) -> None:
    wanted = large_run(48)[0].measurement
    assert wanted is not None
    shown = page.evaluate(
        "() => { const one = JSON.parse(document.getElementById('samples').textContent)[0];"
        "const bytes = Uint8Array.from(atob(one.samples), letter => letter.charCodeAt(0));"
        "return [...new Float32Array(bytes.buffer)]; }"
    )
    assert shown == pytest.approx(list(wanted.samples_s), rel=1e-6)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_of_page_and_plots_stand_out_in_light_and_dark(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    ground = colour_of(page, "section", "backgroundColor")
    for selector, what in (
        ("h2", "color"),
        (".note", "color"),
        ("#plot-roofline .xtick text", "fill"),
        ("#plot-scaling .ytitle", "fill"),
        ("#plot-roofline .legendtext", "fill"),
    ):
        assert contrast(colour_of(page, selector, what), ground) >= 4.5, selector
    assert (sum(ground) < 3 * 128) == (scheme == "dark")
    page.emulate_media(color_scheme="light")


def contrast(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """Ratio of two colours. Source: WCAG 2.2, definitions of relative luminance and contrast."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (value / 255 for value in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_telephone_needs_no_scrolling_sideways(browser: Any, small: str) -> None:
    with opened(browser, small, viewport=PHONE) as page:
        scroll_through(page)
        page.locator("#case-table tbody th button").first.click()
        page.locator("tr.detail .main-svg").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        wide = page.evaluate(
            "() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot =>"
            "plot.getBoundingClientRect().right > innerWidth || plot.querySelector('.main-svg')"
            ".getBoundingClientRect().right > innerWidth).map(plot => plot.id)"
        )
        assert wide == []


def test_paper_has_all_cases_and_is_light(page: Any) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#case-table tbody tr").count() == 54
    assert not page.locator(".controls").is_visible()
    assert colour_of(page, "body", "backgroundColor") == (255, 255, 255)
    assert sum(colour_of(page, "h2", "color")) < 3 * 64
    assert page.locator("#plot-scaling .main-svg").count() > 0
    page.emulate_media(media="screen", color_scheme="light")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 4


def test_the_tables_are_there_without_scripts(browser: Any, small: str) -> None:
    with opened(browser, small, java_script_enabled=False) as page:
        assert page.locator("#case-table tbody tr").count() == 54
        assert page.locator("#case-table tbody tr").last.is_visible()
        assert page.locator(".controls").count() == 0
        assert "Roofline with" in page.locator("#roofline noscript").inner_text()


def test_two_thousand_cases_are_light_open_soon_and_filter_at_once(wide: Any, large: str) -> None:
    assert Path(large.removeprefix("file://")).stat().st_size < 15e6
    load_ms = wide.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert load_ms < SLOWER * 3000
    for act in (
        "const box = document.querySelector('input[type=search]'); box.value = 'gemm triton';"
        "box.dispatchEvent(new Event('input'))",
        "document.querySelector('.controls button').click()",
        "document.querySelector('#case-table th:nth-child(5) button').click()",
    ):
        taken_ms = wide.evaluate(
            f"() => {{ const from = performance.now(); {act};"
            "document.getElementById('case-table').offsetHeight;"
            "return performance.now() - from; }"
        )
        assert taken_ms < SLOWER * 100
    assert wide.locator("#case-table tbody tr").count() <= 200


def test_scrolling_the_table_shows_more_rows_under_a_head_that_stays(wide: Any) -> None:
    region = wide.get_by_role("region", name="Table of all cases")
    region.evaluate("e => e.scrollTo(0, e.scrollHeight)")
    wide.wait_for_function("document.querySelectorAll('#case-table tbody tr').length > 100")
    head = wide.locator("#case-table thead th").first.bounding_box()
    assert abs(head["y"] - region.bounding_box()["y"]) < 4
    wide.get_by_role("button", name="Show all").click()
    assert wide.locator("#case-table tbody tr").count() == NUM_CASES


@pytest.mark.parametrize("run", ["hostile", "old", "nothing"])
def test_odd_runs_are_pages_that_run_nothing_of_theirs(
    browser: Any, folder: Path, run: str
) -> None:
    records: tuple[Record, ...] = {
        "hostile": hostile_run(),
        "old": old_run(),
        "nothing": sample_records()[-6:],
    }[run]
    evil = "</script><script>window.hacked = 1; alert(1)</script>"
    environment = dataclasses.replace(sample_environment(), host=evil, warnings=(evil,))
    info = sample_info(suite="\u8bad\u7ec3 \U0001f680", tags=((evil, evil),))
    address = written(
        folder / f"{run}.html", records=records, info=info, environment=environment, chip=CHIP
    )
    with opened(browser, address) as page:
        if run == "hostile":
            scroll_through(page)
        for button in page.locator("#case-table tbody th button").all()[:4]:
            button.click()
        assert page.locator("tr.detail dl").first.is_visible()
        assert page.locator("#case-table tbody tr[data-case]").count() == len(records)
        assert page.evaluate("window.hacked") is None
        assert "\u8bad\u7ec3" in page.title()
