"""Published figures that are no time of a step."""

from dataclasses import replace

import pytest

from harness.extrapolate.calibration import NONE
from harness.validation.figure_prediction import FigurePrediction
from harness.validation.figures import predict_figure
from harness.validation.rows import Dropped, PublishedFigure, read_run
from tests.harness.validation.published_row import row


def figure(**cells: str) -> PublishedFigure:
    found = read_run(row(**cells))
    assert isinstance(found, PublishedFigure), found
    return found


def predicted(**cells: str) -> FigurePrediction:
    found = predict_figure(figure(**cells), NONE)
    assert isinstance(found, FigurePrediction), found
    return found


def reason(**cells: str) -> str:
    found = predict_figure(figure(**cells), NONE)
    assert isinstance(found, Dropped)
    return found.reason


def test_memory_that_is_allocated_is_less_than_what_is_reserved() -> None:
    reserved = predicted(metric_name="peak_memory_gib", metric_value="60")
    allocated = predicted(metric_name="peak_memory_gib", notes="max allocated", metric_value="60")
    assert reserved.predicted == pytest.approx(1.05 * allocated.predicted)


def test_the_memory_of_four_layers_of_deepseek_is_as_measured() -> None:
    # MooreThreads/SimuMax@4dcaae5 docs/b200, real runs of Megatron-LM on 8 B200.
    cells = {"micro_batch": "1", "tp": "1", "pp": "1", "vpp": "1", "ep": "8", "layers": "4"}
    cells |= {"chip": "B200", "chips": "8", "seq_len": "4096", "global_batch_seqs": "32"}
    cells |= {"metric_name": "peak_memory_gib", "notes": "max allocated"}
    for model, gib in (("deepseek-v2 (4 layers)", 45.63), ("deepseek-v3 (4 layers)", 104.3)):
        found = predicted(**cells, model=model, metric_value=str(gib))
        assert found.predicted == pytest.approx(gib, rel=0.01)
        assert found.is_inside_deciles


def test_torchtitan_keeps_more_in_a_pipeline() -> None:
    cells = {"metric_name": "peak_memory_gib", "metric_value": "60", "vpp": "1", "zero": "3"}
    cells |= {"recompute": "full", "dp": "4"}
    plain = predicted(**cells)
    titan = predicted(**cells, source="torchtitan benchmarks")
    assert titan.predicted > 1.2 * plain.predicted


def test_the_memory_of_a_plan_that_is_not_told_is_not_predicted() -> None:
    assert "does not give whole" in reason(metric_name="peak_memory_gib", vpp="")


def test_goodput_falls_with_the_chips_and_is_within_its_interval() -> None:
    few = predicted(metric_name="goodput_pct", chips="1024", metric_value="95")
    many = predicted(metric_name="goodput_pct", chips="65536", metric_value="95")
    assert many.predicted < few.predicted < 100
    assert few.low < few.predicted < few.high


def test_goodput_takes_the_time_between_interruptions_from_the_notes() -> None:
    often = predicted(metric_name="goodput_pct", notes="JMTTI 0.5 h", metric_value="90")
    seldom = predicted(metric_name="goodput_pct", notes="JMTTI 500 h", metric_value="90")
    assert often.predicted < seldom.predicted


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"metric_name": "goodput_pct", "notes": "manual restart"}, "people in the loop"),
        ({"metric_name": "weak_scaling_eff_pct"}, "compares two sizes"),
        ({"metric_name": "applause"}, "metric applause is not predicted"),
    ],
)
def test_a_figure_without_a_predictor_says_why(cells: dict[str, str], why: str) -> None:
    assert why in reason(**cells)


def test_a_bad_cell_costs_its_figure() -> None:
    bad = figure(metric_name="goodput_pct")
    found = predict_figure(replace(bad, row=bad.row | {"chips": "many"}), NONE)
    assert isinstance(found, Dropped)
    assert "a number cannot be read" in found.reason


def test_a_rate_of_serving_is_that_of_the_plan_and_batch_in_the_row() -> None:
    cells = {"metric_name": "decode_tokens_per_s_per_chip", "metric_value": "400", "tp": "8"}
    cells |= {"pp": "1", "chips": "8", "seq_len": "2048"}
    few, many = (predicted(notes=f"batch {batch} per chip", **cells) for batch in (2, 16))
    assert 2 * few.predicted < many.predicted
    assert few.low < few.predicted < few.high


def test_a_node_serves_what_its_chips_do() -> None:
    cells = {"metric_value": "400", "notes": "batch 8", "tp": "8", "pp": "1", "chips": "8"}
    chip, node = (
        predicted(metric_name=f"decode_tokens_per_s_per_{part}", **cells)
        for part in ("chip", "node")
    )
    assert node.predicted == pytest.approx(8 * chip.predicted)


def test_serving_on_a_chip_of_unknown_rates_says_which() -> None:
    cells = {"metric_name": "prefill_tokens_per_s_per_chip", "metric_value": "4000"}
    cells |= {"chip": "MTT-S5000", "model": "deepseek-v3", "tp": "", "pp": "", "precision": "fp8"}
    assert "the bf16 rate of chip mtt_s5000 is n/a. Measure the chip" in reason(**cells)
