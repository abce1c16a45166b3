"""What a person finds in MLflow's UI who has read no documentation."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Show = Callable[[str, str], Page]


def heads(page: Page) -> list[str]:
    """The columns of the table of runs, from left to right."""
    cells = page.locator(".ag-header-cell").all()
    shown = {cell.bounding_box()["x"]: cell.inner_text().strip() for cell in cells}  # type: ignore[index]
    return [text for _, text in sorted(shown.items()) if text]


def column(page: Page, name: str, num_rows: int) -> list[str]:
    """The values of a column, from top to bottom, once there are so many."""
    cells = page.locator(f".ag-cell[col-id='{name}']")
    expect(cells).to_have_count(num_rows)
    shown = {cell.bounding_box()["y"]: cell.inner_text().strip() for cell in cells.all()}  # type: ignore[index]
    return [text for _, text in sorted(shown.items())]


def lines_of(page: Page, key: str, num_lines: int) -> list[tuple[list[float], list[float]]]:
    """Steps and values of each line of a chart, once so many are drawn."""
    card = page.locator("[data-testid='experiment-view-compare-runs-card']").filter(has_text=key)
    plot = card.first.locator(".js-plotly-plot").first
    plot.locator(".main-svg").first.wait_for()
    # MLflow draws each line twice, once to be highlighted.
    drawn = """plot => [...new Set(plot.data
      .filter(line => (line.mode || '').includes('lines') && (line.x || []).length > 1)
      .map(line => JSON.stringify([Array.from(line.x), Array.from(line.y)])))].map(JSON.parse)"""
    lines: list[tuple[list[float], list[float]]] = []
    for _ in range(300):
        lines = plot.evaluate(drawn)
        if len(lines) >= num_lines:
            break
        page.wait_for_timeout(200)
    assert len(lines) == num_lines, lines
    return lines


def test_the_link_of_the_ui_lands_on_the_newest_suite(site: Site, show: Show) -> None:
    page = show(site.landing, "3 matching runs")
    expect(page.get_by_text("Suite quick")).to_be_visible()
    assert column(page, "tags.`chip`", 3) == ["fake_alpha", "fake_beta", "fake_alpha"]


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
    assert column(page, "tags.`chip`", 3) == ["fake_alpha", "fake_alpha", "fake_beta"]
    times = [float(text) for text in column(page, "metrics.`geomean_us`", 3)]
    assert times == sorted(times)
    assert heads(page)[2:7] == ["chip", "geomean_us", "pct_roof", "ok", "failed"]


def test_by_chip_has_one_line_per_chip(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "by-chip"), "Group: fake_beta")
    expect(page.get_by_text("Group: fake_alpha")).to_be_visible()
    expect(page.get_by_text("Group: ")).to_have_count(2)


def test_the_menu_of_views_leads_to_each(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "latest"), "3 matching runs")
    page.get_by_role("button", name="Latest").click()
    expect(page.get_by_text("By chip", exact=True)).to_be_visible()
    page.get_by_text("Leaderboard", exact=True).click()
    expect(page.get_by_role("button", name="Sort: geomean_us")).to_be_visible()


def test_runs_are_found_by_their_chip(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "latest"), "3 matching runs")
    search = page.get_by_placeholder("metrics.rmse")
    search.fill("tags.chip = 'fake_beta'")
    search.press("Enter")
    expect(page.get_by_text("1 matching run")).to_be_visible()
    expect(page.locator(".ag-cell[col-id='tags.`chip`']")).to_have_text(["fake_beta"])


@pytest.mark.parametrize("measure", ["median_us", "tflops"])
def test_a_measure_draws_itself_against_size_with_one_line_per_chip(
    site: Site, show: Show, measure: str
) -> None:
    key = f"gemm.bf16.forward/{measure}.N1024.K1024.torch"
    page = show(site.runs_page("quick", "by-chip", "CHART"), key)
    lines = lines_of(page, key, 2)
    assert all(steps == [64, 128, 256, 512] for steps, _ in lines)
    fast, slow = (values[-1] for _, values in sorted(lines, key=lambda line: line[1][-1]))
    assert slow > 1.1 * fast
    expect(page.get_by_text(f"fake_beta ({key})")).to_be_visible()


def test_throughput_is_drawn_against_the_number_of_chips(site: Site, show: Show) -> None:
    key = "by_number_of_chips/tokens_per_s"
    page = show(site.runs_page("projection", "latest", "CHART"), key)
    for steps, values in lines_of(page, key, 2):
        assert steps[-1] == 100_000
        assert values == sorted(values)
    expect(page.get_by_text("by_number_of_chips/mfu").first).to_be_visible()


def test_a_projections_leaderboard_has_the_highest_throughput_first(site: Site, show: Show) -> None:
    page = show(site.runs_page("projection", "leaderboard"), "2 matching runs")
    assert column(page, "tags.`chip`", 2) == ["fake_alpha", "fake_beta"]
    assert heads(page)[2:6] == ["chip", "model", "chips", "million_tokens_per_s"]


def test_serving_draws_throughput_against_what_a_user_gets(site: Site, show: Show) -> None:
    key = "by_tokens_per_s_per_user/tokens_per_s_per_chip"
    page = show(site.runs_page("serving", "latest", "CHART"), key)
    ((_, values),) = lines_of(page, key, 1)
    assert values == sorted(values, reverse=True)


def test_two_runs_that_are_selected_are_compared(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "leaderboard"), "3 matching runs")
    boxes = page.locator(".ag-center-cols-container, .ag-pinned-left-cols-container")
    for row in (0, 2):
        boxes.locator(f".ag-row[row-index='{row}'] input[type=checkbox]").first.click(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 2 Runs").wait_for()
    shown = page.inner_text("main")
    assert "fake_alpha" in shown
    assert "fake_beta" in shown


def test_the_description_of_a_run_begins_with_the_verdict(site: Site, show: Show) -> None:
    page = show(site.run_page("quick", "fake_alpha"), "quick on fake_alpha:")
    assert re.search(
        r"quick on fake_alpha: \d+ of \d+ cases measured at .+ of the measured roof",
        page.inner_text("main"),
    )
    expect(page.get_by_text("llama3_8b on 100,000 x fake_alpha")).to_be_visible()


def test_the_table_joins_the_cases_of_all_chips(site: Site, show: Show) -> None:
    page = show(site.runs_page("quick", "latest", "ARTIFACT"), "gemm torch M")
    shown = page.inner_text("main").splitlines()
    case = next(place for place, text in enumerate(shown) if text.startswith("gemm torch M"))
    fast, same, slow = sorted(float(text) for text in shown[case + 1 : case + 4])
    assert same < 1.02 * fast
    assert slow > 1.1 * fast, "one of the three runs is of the slower chip"


def test_the_report_is_drawn_in_the_artifact_view(site: Site, show: Show) -> None:
    page = show(site.run_page("quick", "fake_alpha", "/artifacts/report.html"), "report.html")
    report = page.frame_locator("iframe")
    expect(report.get_by_text("cases measured at").first).to_be_visible()
    # Plots are drawn once they are in sight, and the first is below the frame's edge.
    report.locator("figure[data-plot]").first.scroll_into_view_if_needed()
    expect(report.locator(".js-plotly-plot .main-svg").first).to_be_visible()
