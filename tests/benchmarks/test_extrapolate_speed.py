"""The benchmark of the search says what it measured, where, and what was missed."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.benchmarks import extrapolate
from tests.benchmarks.extrapolate import ExtrapolateSpeed, main, measure, table


@pytest.fixture(scope="module")
def speed() -> ExtrapolateSpeed:
    return measure(["llama3_8b"], 256, (64, 128, 256), num_repetitions=1)


def test_the_file_has_plans_seconds_rates_and_the_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench" / "extrapolate.json"
    arguments = ["--models", "llama3_8b", "--chips", "64", "--sizes", "2", "--repetitions", "1"]
    code = main([*arguments, "--out", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    (search,) = found["searches"]
    for name in (
        *("num_plans", "num_fitting", "num_layers_timed", "search_s", "search_cpu_s"),
        *("enumeration_s", "evaluation_s", "evaluation_cpu_s"),
        *("plans_per_s_of_search", "plans_per_s_of_evaluation"),
    ):
        assert search[name] > 0
    assert search["model"] == "llama3_8b"
    assert search["plan"].startswith("TP")
    assert found["curve"]["sizes"] == [64, 64]
    assert found["curve"]["seconds"] > 0
    assert found["host"].keys() == {
        *("processor", "num_cores", "load", "python", "numpy", "threads")
    }
    said = capsys.readouterr().out
    assert str(out.name) in said.replace("\n", "")
    # So few plans are evaluated in no time, of which most is the start of each array's work.
    assert code in (0, 1)


def test_the_table_has_a_line_for_each_figure(speed: ExtrapolateSpeed) -> None:
    assert table(speed).row_count == 11


def test_a_slow_search_or_curve_is_said(speed: ExtrapolateSpeed) -> None:
    (search,) = speed.searches
    slow = dataclasses.replace(
        speed,
        searches=(dataclasses.replace(search, search_s=2.0, plans_per_s_of_evaluation=9e5),),
        curve=dataclasses.replace(speed.curve, seconds=11.0),
    )
    assert slow.misses == (
        "The search of llama3_8b takes 2.00 s.",
        "900,000 plans/s of llama3_8b are evaluated.",
        "The curve takes 11.0 s.",
    )
    fast = dataclasses.replace(
        speed,
        searches=(dataclasses.replace(search, search_s=0.9, plans_per_s_of_evaluation=2e6),),
        curve=dataclasses.replace(speed.curve, seconds=1.0),
    )
    assert fast.misses == ()


def test_repetitions_begin_from_nothing() -> None:
    # Layers that were kept would not be timed again, and a search would look faster than it is.
    assert extrapolate.step_model("llama3_8b").num_layers_timed == 0
