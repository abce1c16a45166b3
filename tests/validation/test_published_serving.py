"""Published rates of serving: how far the model is from each, from data sheets alone."""

import csv
from dataclasses import dataclass

import pytest

from harness.config.build import PUBLISHED_RUNS
from harness.config.specs import load_model
from harness.errors import PlanError
from harness.extrapolate.serving.published import ServingRate, predict_published, predict_rate
from harness.validation.clusters import chip_titled, cluster_of
from harness.workload.step import Phase

CLAIMED = {
    "deepseek-serve-001": 0.54,
    "deepseek-serve-002": 0.17,
    "cloudmatrix384-001": 0.02,
    "cloudmatrix384-002": 0.01,
    "cloudmatrix384-003": 0.01,
    "cloudmatrix384-004": -0.12,
}
"""Error of the rate that `docs/extrapolation.md` states. Those of Moore Threads are lower bounds of
a chip whose bf16 rate is not published."""
DRIFT = 0.03
"""Change of an error beyond which the page has to be written anew."""


@dataclass(frozen=True)
class Row:
    published: float
    predicted: ServingRate

    @property
    def error(self) -> float:
        return self.predicted.value / self.published - 1


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    found = {}
    with PUBLISHED_RUNS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["id"] not in CLAIMED:
                continue
            chip = chip_titled(row["chip"])
            assert chip is not None
            cluster = cluster_of(chip, 384)
            assert cluster is not None
            found[row["id"]] = Row(
                published=float(row["metric_value"]),
                predicted=predict_published(
                    row_id=row["id"],
                    metric=row["metric_name"],
                    notes=row["notes"],
                    precision=row["precision"],
                    expert=int(row["ep"]),
                    tensor=None,
                    chip=chip,
                    cluster=cluster,
                    model=load_model("deepseek_v3"),
                ),
            )
    return found


@pytest.mark.parametrize("row_id", CLAIMED)
def test_the_error_of_a_published_rate_is_the_one_we_state(
    row_id: str, rows: dict[str, Row]
) -> None:
    assert rows[row_id].error == pytest.approx(CLAIMED[row_id], abs=DRIFT)


def test_the_published_rates_are_inside_p10_to_p90(rows: dict[str, Row]) -> None:
    inside = [
        row_id
        for row_id, row in rows.items()
        if row.predicted.low <= row.published <= row.predicted.high
    ]
    assert set(inside) == set(CLAIMED)


def test_balanced_experts_are_worth_what_cloudmatrix_publishes(rows: dict[str, Row]) -> None:
    """6,688 against 5,655 tokens/s per chip; the load of the busiest chip follows from it."""
    ideal, usual = (rows[f"cloudmatrix384-00{place}"] for place in (1, 2))
    published = ideal.published / usual.published
    assert ideal.predicted.value / usual.predicted.value == pytest.approx(published, rel=0.02)


def test_a_pipeline_of_published_chips_decodes_as_much_per_chip() -> None:
    chip = chip_titled("H100-SXM")
    assert chip is not None
    cluster = cluster_of(chip, 64)
    assert cluster is not None
    flat, deep = (
        predict_rate(
            chip, cluster, load_model("llama3_70b"), Phase.DECODE, tensor=4, chips=chips, tpot_s=0.2
        )
        for chips in (4, 8)
    )
    assert deep.value > 0.8 * flat.value


def test_a_plan_without_room_says_so() -> None:
    chip = chip_titled("H100-SXM")
    assert chip is not None
    cluster = cluster_of(chip, 8)
    assert cluster is not None
    with pytest.raises(PlanError, match=r"TP1 of llama3_405b in fp8 does not fit the memory"):
        predict_rate(chip, cluster, load_model("llama3_405b"), Phase.DECODE, tpot_s=0.05)
