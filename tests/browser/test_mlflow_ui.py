"""What a person finds in MLflow's UI who has read no documentation."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Show = Callable[[str, str], Page]


def heads(page: Page) -> list[str]:
    """The columns of the table of runs, from left to right."""
    cells = page.locator(".ag-header-cell").all()
    shown = {cell.bounding_box()["x"]: cell.inner_text().strip() for cell in cells}  # type: ignore[index]
    return [text for _, text in sorted(shown.items()) if text]


def column(page: Page, name: str) -> list[str]:
    """The values of a column, from top to bottom."""
    cells = page.locator(f".ag-cell[col-id='{name}']").all()
    shown = {cell.bounding_box()["y"]: cell.inner_text().strip() for cell in cells}  # type: ignore[index]
    return [text for _, text in sorted(shown.items())]


def test_the_link_of_the_ui_lands_on_the_newest_suite(site: Site, show: Show) -> None:
    page = show(site.landing, "3 matching runs")
    expect(page.get_by_text("Suite quick")).to_be_visible()
    assert column(page, "tags.`chip`") == ["fake_alpha", "fake_beta", "fake_alpha"]


def test_the_list_of_experiments_says_what_each_holds(site: Site, show: Show) -> None:
    address = f"{site.target.ui_url}/#/experiments?workflowType=machine_learning"
    page = show(address, "chipscale/serving")
    rows = page.locator("table tr, [role=row]").all_inner_texts()
    for name, words in (
        ("chipscale/quick", "Suite quick"),
        ("chipscale/projection", "Training steps"),
        ("chipscale/serving", "Serving"),
    ):
        assert any(name in row and words in row for row in rows), rows


def test_the_leaderboard_has_the_fastest_first_with_its_numbers(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "leaderboard"), "3 matching runs")
    assert column(page, "tags.`chip`") == ["fake_alpha", "fake_alpha", "fake_beta"]
    times = [float(text) for text in column(page, "metrics.`geomean_us`")]
    assert times == sorted(times)
    assert heads(page)[2:7] == ["chip", "geomean_us", "pct_roof", "ok", "failed"]


def test_by_chip_has_one_line_per_chip(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "by-chip"), "Group: fake_beta")
    expect(page.get_by_text("Group: fake_alpha")).to_be_visible()


def test_the_table_joins_the_cases_of_all_chips(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "latest", "ARTIFACT"), "gemm.bf16.forward[M=")
    shown = page.inner_text("main").splitlines()
    case = next(place for place, text in enumerate(shown) if text.startswith("gemm.bf16.forward["))
    fast, same, slow = sorted(float(text) for text in shown[case + 1 : case + 4])
    assert same < 1.02 * fast
    assert slow > 1.1 * fast, "one of the three runs is of the slower chip"


def test_the_report_is_drawn_in_the_artifact_view(site: Site, show: Show) -> None:
    page = show(site.run_page("quick", "fake_alpha", "/artifacts/report.html"), "report.html")
    report = page.frame_locator("iframe")
    expect(report.get_by_text("cases measured at").first).to_be_visible()
    expect(report.locator(".js-plotly-plot .main-svg").first).to_be_visible()
