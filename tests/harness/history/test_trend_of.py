import numpy as np
import pytest

from harness.codec import from_json, to_json
from harness.errors import NothingMeasured, RecordError
from harness.history.choosing import HistoryQuery, choose_runs
from harness.history.trend_of import trend_of
from harness.report import trend_page
from harness.report.trend_rows import headline, sparkline
from harness.report.trend_table import trend_markdown
from harness.trend import Trend
from tests.harness.history.history_sample import history, series

GEMM, COPY = "gemm.bf16.forward[M=1,N=2,K=3]/torch", "copy.bf16.forward[N=4]/torch"


def quiet(seed: int, num_runs: int = 30, *steps: tuple[int, float]) -> np.ndarray:
    return series(seed, num_runs, wild=0.0, steps=steps)


def test_a_change_tells_its_run_its_commits_and_its_size() -> None:
    trend = trend_of(history({GEMM: quiet(1, 30, (20, 0.2)), COPY: quiet(2)}))
    (case,) = trend.changed
    (change,) = case.change_points
    assert (case.case_id, change.run_id, change.num_after) == (GEMM, "run-020", 10)
    assert (int(change.commit_before, 16), int(change.commit, 16)) == (19, 20)
    assert change.change.value == pytest.approx(0.2, abs=0.03)
    assert trend.cases[0] is case


def test_another_protocol_begins_a_new_series() -> None:
    before = history({GEMM: quiet(3)}, protocol="old")
    after = history({GEMM: 2 * quiet(4)}, protocol="new")
    trend = trend_of((*before, *after))
    assert not trend.changed
    assert len(trend.cases[0].medians_s) == 30


def test_what_most_cases_do_together_is_told_once() -> None:
    cases = {f"op{n}.bf16.forward[M=1]/torch": quiet(n, 30, (15, 0.1)) for n in range(6)}
    (shared,) = trend_of(history(cases)).shared_changes
    assert (shared.run_id, shared.num_cases) == ("run-015", 6)
    assert shared.change == pytest.approx(0.1, abs=0.02)


def test_a_case_that_some_runs_lack_has_the_places_of_its_own_runs() -> None:
    times = quiet(5, 30, (20, 0.3))
    times[3] = np.nan
    (case,) = trend_of(history({GEMM: times})).changed
    assert len(case.run_ids) == 29
    assert case.change_points[0].run_id == "run-020"


def test_machines_and_branches_are_never_joined() -> None:
    ours = history({GEMM: quiet(6)})
    others = (
        *history({GEMM: 2 * quiet(7)}, fingerprint="other"),
        *history({GEMM: 2 * quiet(8)}, branch="topic"),
    )
    chosen = choose_runs(
        (*others, *ours), HistoryQuery(branch="main", fingerprint="imaginary-0123")
    )
    assert len(chosen.runs) == 30
    assert chosen.num_other_runs == 60


def test_what_a_query_leaves_open_is_that_of_the_newest_run() -> None:
    older = history({GEMM: quiet(9, 5)}, suite="training")
    newer = history({GEMM: quiet(10, 10)})
    assert {run.suite for run in choose_runs((*older, *newer), HistoryQuery()).runs} == {"quick"}
    assert len(choose_runs((*older, *newer), HistoryQuery(last=3)).runs) == 3


def test_an_empty_history_is_exit_code_5_and_an_unknown_value_names_those_there() -> None:
    with pytest.raises(NothingMeasured, match="the history is empty"):
        choose_runs((), HistoryQuery())
    with pytest.raises(RecordError, match=r"branch=mian: .*Did you mean 'main'\? There are: main"):
        choose_runs(history({GEMM: quiet(11)}), HistoryQuery(branch="mian"))


def test_a_trend_is_read_back_from_its_json() -> None:
    trend = trend_of(history({GEMM: quiet(1, 30, (20, 0.2))}))
    assert from_json(Trend, to_json(trend)) == trend


def test_reports_begin_with_the_headline_and_name_each_change() -> None:
    trend = trend_of(history({GEMM: quiet(1, 30, (20, 0.2)), COPY: quiet(2)}))
    text = headline(trend)
    assert text.startswith(
        "1 of 2 cases changed over 30 runs of quick on imaginary_x1, branch main"
    )
    markdown = trend_markdown(trend)
    assert markdown.startswith(f"**{text}**")
    assert f"| {GEMM} |" in markdown
    page = trend_page.render(trend)
    assert text in page
    assert GEMM in page
    assert "http://" not in page.split("<body>")[1].split("<script")[0]


def test_a_sparkline_rises_with_the_time_and_quiet_ones_are_flat() -> None:
    (case,) = trend_of(history({GEMM: quiet(1, 30, (20, 0.5))})).cases
    drawn = sparkline(case)
    assert len(drawn) == 30
    assert drawn[0] == "."
    assert drawn[-1] in "%@"


def test_all_branches_together_leave_out_only_other_machines_of_the_suite_and_chip() -> None:
    times = {"gemm.bf16.forward[M=1]/torch": series(1, 4)}
    ours = (*history(times), *history(times, branch="topic"))
    others = (*history(times, suite="roofs"), *history(times, fingerprint="another"))
    query = HistoryQuery(suite="quick", branch="any", fingerprint="imaginary-0123")
    chosen = choose_runs((*ours, *others), query)
    assert (len(chosen.runs), chosen.num_other_runs) == (8, 4)
