import math
from pathlib import Path

import numpy as np
import pytest

from harness.config.build import PUBLISHED_RUNS
from harness.extrapolate.project import (
    CHECKED_CHIPS,
    FASTER_THAN_MODEL,
    SLOWER_THAN_MODEL_DENSE,
    SLOWER_THAN_MODEL_MOE,
)
from harness.validation.outcome import Outcome, validate
from harness.validation.predict import Prediction
from harness.validation.render import figures_markdown, markdown
from harness.validation.summary import by_family, held_out_coverage, held_out_intervals

DOCS = Path(__file__).parents[2] / "docs" / "extrapolation.md"

# Mean absolute error of each source as reached, and a point of room for other libraries' last
# digits. A change that makes the model better lowers a figure here and in the docs.
REACHED = {
    "deepseekv3": 0.495,
    "dgxc": 0.105,
    "ironwood": 0.186,
    "korthikanti-mfu": 0.063,
    "korthikanti-t5": 0.064,
    "llama3": 0.088,
    "llmfoundry": 0.211,
    "maxtext-a3": 0.301,
    "maxtext-tier": 0.148,
    "maxtext-v5e": 0.297,
    "mbridge": 0.261,
    "megascale": 0.056,
    "megatron-2020": 0.121,
    "megatron-h100": 0.099,
    "megatron-sc21-t1": 0.114,
    "megatron-sc21-t2": 0.327,
    "mlperf": 0.094,
    "mlperf time to train": 0.126,
    "mtnlg": 0.242,
    "nemo2407": 0.079,
    "palm": 0.165,
    "simumax": 0.417,
    "torchtitan": 0.333,
    "vtrain-multi": 0.160,
    "vtrain-single": 0.329,
}
ROOM = 0.01
FUSED_DENSE = ("dgxc", "llama3", "megatron-h100")


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return validate(PUBLISHED_RUNS)


@pytest.fixture(scope="module")
def predictions(outcome: Outcome) -> list[Prediction]:
    return outcome.steps


def dense_h100(predictions: list[Prediction]) -> list[Prediction]:
    """The runs that the stated interval is of: dense, bf16, on H100, with fused attention."""
    return [
        p
        for p in predictions
        if p.run.family in FUSED_DENSE
        and p.run.chip.name == "h100_sxm"
        and not p.run.parallel.linear_dtype
        and p.run.model.experts is None
    ]


def residuals(predictions: list[Prediction]) -> list[float]:
    """ln of published over predicted time."""
    return [math.log(p.run.step_time_s / p.step.seconds) for p in predictions]


def test_errors_by_source_are_those_reached(predictions: list[Prediction]) -> None:
    found = {row.family: row.mape for row in by_family(predictions)}
    overall = found.pop("all")
    assert found.keys() == REACHED.keys()
    worse = {name: f"{mape:.1%}" for name, mape in found.items() if mape > REACHED[name] + ROOM}
    assert not worse
    assert overall < 0.20


def test_llama_405b_on_16384_chips_is_within_its_interval(predictions: list[Prediction]) -> None:
    # Llama 3 (arXiv 2407.21783) table 4: 400 TFLOP/s per chip, 41 % of the bf16 peak.
    (run,) = (p for p in predictions if p.run.id == "llama3-t4-002")
    assert run.run.num_chips == CHECKED_CHIPS == 16384
    assert run.low_s <= run.run.step_time_s <= run.high_s
    assert abs(run.error) < 0.15


def test_the_runs_of_llama_405b_are_ordered_as_published(predictions: list[Prediction]) -> None:
    # 8,192 chips use each chip better than 16,384, and long sequences worse.
    runs = {p.run.id: p for p in predictions if p.run.family == "llama3"}
    per_chip = [
        runs[name].run.parallel.global_batch_tokens / runs[name].step.seconds / chips
        for name, chips in (("llama3-t4-001", 8192), ("llama3-t4-002", 16384))
    ]
    assert per_chip[0] > per_chip[1]


def test_the_stated_errors_are_those_of_the_published_runs(predictions: list[Prediction]) -> None:
    low, high = np.quantile(residuals(dense_h100(predictions)), [0.05, 0.95])
    assert low == pytest.approx(-FASTER_THAN_MODEL, abs=0.01)
    assert high == pytest.approx(SLOWER_THAN_MODEL_DENSE, abs=0.015)
    with_experts = residuals([p for p in predictions if p.run.model.experts is not None])
    assert np.quantile(with_experts, 0.95) <= SLOWER_THAN_MODEL_MOE


def test_intervals_from_the_other_sources_cover_the_one_left_out(
    predictions: list[Prediction],
) -> None:
    # The interval is stated for large dense models on H100. No source sets the error of its own
    # interval here; 47 of 49 runs are inside, 7 of 9 of the source that does worst.
    found = held_out_intervals(dense_h100(predictions))
    assert found.keys() == set(FUSED_DENSE)
    inside = {name: [low <= s <= high for low, high, s in runs] for name, runs in found.items()}
    pooled = [covered for runs in inside.values() for covered in runs]
    assert sum(pooled) / len(pooled) >= 0.9
    assert all(sum(runs) / len(runs) >= 0.75 for runs in inside.values())


def test_intervals_cover_by_being_right_and_not_by_being_wide(
    predictions: list[Prediction],
) -> None:
    widths = [p.high_s / p.low_s for p in dense_h100(predictions)]
    assert max(widths) < 1.4


def test_published_runs_fit_the_memory_they_ran_in_but_for_a_few(
    predictions: list[Prediction],
) -> None:
    # All of them did fit. The count is too high for runs that sum gradients in 16 bits (NeMo) or
    # free tensors early (Llama 3), by 7 % at most among the dense ones on H100.
    # In 8 bits and on later chips, where a fifth of the runs do not fit by our count, nothing is
    # claimed.
    checked = ("h100_sxm", "a100_80gb_sxm", "a100_40gb_sxm")
    shares = [
        p.memory_share
        for p in predictions
        if p.run.chip.name in checked and not p.run.parallel.linear_dtype
    ]
    assert sum(share > 1 for share in shares) <= 22
    assert max(p.memory_share for p in dense_h100(predictions)) < 1.08


def test_growth_from_512_to_2304_chips_is_held_out_and_right(
    predictions: list[Prediction],
) -> None:
    # The matrix rate was calibrated on up to 512 chips; the larger ones of the same source test
    # what scaling adds.
    large = [p for p in dense_h100(predictions) if p.run.num_chips > 512]
    assert len(large) >= 10
    mape = sum(abs(p.error) for p in large) / len(large)
    assert mape < 0.08


def test_bias_is_one_sided_and_said(predictions: list[Prediction]) -> None:
    # Everything that is not modelled costs time, so the model is fast more often than slow.
    overall = by_family(predictions)[-1]
    assert overall.bias < 0
    assert "one-sided" in DOCS.read_text(encoding="utf-8")


def test_every_source_has_its_coverage_by_the_others(predictions: list[Prediction]) -> None:
    held_out = held_out_coverage(predictions)
    assert held_out.keys() == REACHED.keys()
    assert sum(held_out.values()) / len(held_out) > 0.7


def test_nine_rows_of_ten_are_predicted_and_the_others_have_their_reason(
    outcome: Outcome,
) -> None:
    assert outcome.num_rows == 845
    assert outcome.num_predicted >= 0.9 * outcome.num_rows
    assert all(row.reason for row in outcome.dropped)


def test_peak_memory_is_within_the_spread_that_is_stated(outcome: Outcome) -> None:
    memory = [f for f in outcome.figures if f.metric == "peak_memory_gib"]
    assert len(memory) == 22
    assert sum(f.is_inside_deciles for f in memory) >= 0.8 * len(memory)
    assert all(abs(f.metric_error) < 0.2 for f in memory)


def test_the_table_in_the_docs_is_the_one_that_is_reached(outcome: Outcome) -> None:
    text = DOCS.read_text(encoding="utf-8")
    lines = [*markdown(outcome.steps).splitlines(), *figures_markdown(outcome.figures).splitlines()]
    missing = [line for line in lines if line not in text]
    assert not missing
