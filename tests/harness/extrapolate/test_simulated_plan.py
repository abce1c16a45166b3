import pytest

from harness.config.specs import load_model
from harness.extrapolate.pipeline import StageTimes, bubble_s, stage_kinds
from harness.extrapolate.schedule import NAMES, schedule_of
from harness.extrapolate.simulated_plan import LayerSeconds, simulated_pipeline_s
from harness.projection import PlanChoice

SECONDS = LayerSeconds(dense=0.01, moe=0.012, embedding=0.0, head=0.0)


def plan(schedule: str, **degrees: int) -> PlanChoice:
    chunks = schedule_of(schedule).least_chunks
    whole = {"tensor": 8, "pipeline": 8, "data": 1, "num_microbatches": 32}
    return PlanChoice(**({"virtual_stages": chunks} | whole | degrees), schedule=schedule)


@pytest.mark.parametrize("schedule", NAMES)
def test_equal_stages_take_what_the_closed_form_says(schedule: str) -> None:
    model = load_model("gpt3_175b")
    chosen = plan(schedule)
    stages = stage_kinds(model.num_layers, model.num_layers, 8, chosen.virtual_stages, schedule)
    time_s = stages[0].num_layers * stages[0].microbatch_share * SECONDS.dense
    idle = bubble_s(
        StageTimes(slowest_s=time_s, sum_s=8 * time_s),
        pipeline=8,
        virtual_stages=chosen.virtual_stages,
        num_microbatches=32,
        schedule=schedule,
    )
    assert simulated_pipeline_s(model, chosen, SECONDS) == pytest.approx(32 * time_s + idle)


@pytest.mark.parametrize("schedule", NAMES)
def test_all_work_is_done_and_the_head_costs_time(schedule: str) -> None:
    model = load_model("deepseek_v3")
    chosen = plan(schedule)
    without = simulated_pipeline_s(model, chosen, SECONDS)
    layers = model.num_dense_layers * SECONDS.dense + model.num_moe_layers * SECONDS.moe
    assert without > 32 * layers / 8
    headed = LayerSeconds(dense=0.01, moe=0.012, embedding=0.0, head=0.05)
    assert simulated_pipeline_s(model, chosen, headed) > without


def test_a_message_costs_a_step_time() -> None:
    model = load_model("gpt3_175b")
    alone = simulated_pipeline_s(model, plan("1f1b"), SECONDS)
    # 2 (p - 1) to fill and drain, and as often per p microbatches since p - i are in flight.
    found = simulated_pipeline_s(model, plan("1f1b"), SECONDS, message_s=0.001)
    assert found == pytest.approx(alone + 0.001 * (2 * 7 * 32 / 8 + 2 * 6))
