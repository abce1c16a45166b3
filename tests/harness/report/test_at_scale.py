import dataclasses

import pytest

from harness.codec import from_data, to_data
from harness.projection import (
    BatchEfficiency,
    EnergyUse,
    Goodput,
    Interval,
    IslandShare,
    Projection,
    TrainingRun,
)
from harness.report import html, wall_time_plot
from harness.report.at_scale import goodput_rows, island_rows, power_rows, scale_facts
from harness.report.rows import projection_facts
from harness.report.table import projection_view
from harness.store.folder import RunFolder
from harness.store.mlflow.projection_layout import projection_content
from tests.harness.report.test_table import text_of
from tests.harness.sample_run import sample_projection, write_run

WALL_TIME = Goodput(
    share=0.8,
    losses=(("checkpoints", 0.05), ("coming back from failures", 0.15), ("rare stalls", 0.0001)),
    interruption_s=1824.0,
    checkpoint_interval_s=84.0,
    checkpoint_s=2.0,
    checkpoint_behind_s=0.7,
    recovery_s=340.0,
    hosts_in_repair=36.2,
    spare_hosts=53,
    spare_hosts_needed=56,
    shortage_share=0.004,
    interval=Interval(value=0.8, low=0.7, high=0.9),
)
ENERGY = EnergyUse(
    chip_w=457.0,
    chip_limit_w=600.0,
    clock_factor=0.93,
    parts=(("hosts", 28e6), ("chips, idle", 17e6), ("cooling and conversion", 8e6)),
    machines_w=45e6,
    site_w=53e6,
    peak_site_w=60e6,
    swing_w=40e6,
    rack_w=12.5e3,
    joules_per_token=6.54,
    kwh_per_million_tokens=1.82,
    currency="USD",
    cost_per_hour=151234.0,
    cost_per_million_tokens=2.95,
    joules_per_token_interval=Interval(value=6.54, low=5.7, high=8.55),
    cost_per_million_tokens_interval=Interval(value=2.95, low=2.5, high=3.97),
)


def at_scale() -> Projection:
    """The sample with everything that a cluster's file can add."""
    sample = sample_projection()
    point = dataclasses.replace(
        sample.headline,
        goodput=0.8,
        wall_time=WALL_TIME,
        energy=ENERGY,
        batch=BatchEfficiency(
            batch_tokens=67e6, critical_tokens=141e6, share=0.678, basis="15.6 Ttokens"
        ),
    )
    return dataclasses.replace(
        sample,
        headline=point,
        scaling=(*sample.scaling[:-1], point),
        training_run=TrainingRun(
            tokens=15.6e12, seconds=12.7 * 86400, energy_kwh=28.3e6, cost=46.0e6, currency="USD"
        ),
    )


def test_what_is_known_is_told_with_its_units() -> None:
    facts = dict(scale_facts(at_scale()))
    assert facts["goodput"] == (
        "80.0 % (70.0 to 90.0) of the wall time is left after failures; most goes to coming back "
        "from failures (15.0 %)"
    )
    assert facts["failures"] == (
        "every 30.4 min, 5.67 min to be back, a checkpoint of 2.00 s every 84.0 s, 53 spare hosts"
    )
    assert facts["critical batch"].startswith("141 Mtokens: a token of this batch teaches 67.8 %")
    assert facts["power"] == (
        "53.0 MW at the site (60.0 MW at the peak, steps swing by 40.0 MW); 457 of 600 W per chip, "
        "at 93.0 % of the clock, 12.5 kW per rack"
    )
    assert facts["energy"] == (
        "6.54 J (5.70 to 8.55) per token, 1.82 kWh and USD 2.95 (2.50 to 3.97) per million tokens; "
        "USD 151,000 per hour"
    )
    assert facts["training run"] == "15.6 T tokens in 12.7 days, 28.3 GWh, USD 46.0 million"


def test_throughput_goodput_and_their_product_stand_together() -> None:
    projection = at_scale()
    point = projection.headline
    assert point.useful_tokens_per_second == 0.8 * point.tokens_per_second.value
    assert point.effective_tokens_per_second == 0.678 * point.useful_tokens_per_second
    names = [name for name, _ in projection_facts(projection)]
    assert names.index("throughput") < names.index("goodput") < names.index("useful throughput")


def test_a_projection_of_before_reads_and_tells_its_goodput_alone() -> None:
    data = to_data(sample_projection())
    for name in ("islands", "training_run"):
        del data[name]
    for point in (data["headline"], *data["scaling"]):
        for name in ("wall_time", "energy", "batch"):
            del point[name]
    old = from_data(Projection, data)
    assert old == sample_projection()
    assert [name for name, _ in scale_facts(old)] == ["goodput"]
    assert goodput_rows(old.headline) == power_rows(old.headline) == island_rows(old) == ()


def test_losses_and_power_are_told_largest_first() -> None:
    point = at_scale().headline
    assert goodput_rows(point) == (
        ("training", "80.0 %"),
        ("coming back from failures", "15.0 %"),
        ("checkpoints", "5.00 %"),
    )
    assert power_rows(point)[0] == ("hosts", "28.0 MW")
    assert power_rows(point)[-1] == ("the site", "53.0 MW")


def test_the_terminal_and_the_page_show_all_of_it() -> None:
    projection = at_scale()
    page = html.render(projection=projection)
    for text in (
        "Wall time, taken apart",
        "Power of the site",
        "USD 2.95 (2.50 to 3.97) per million",
    ):
        assert text in page
    assert "plot-wall-time" in page
    assert "plot-wall-time" not in html.render(projection=sample_projection())
    view = text_of(projection_view(projection), 80)
    assert all(len(line) <= 80 for line in view.splitlines())
    assert "6.54 J (5.70 to 8.55) per token" in view


def test_islands_stand_in_place_of_the_plan() -> None:
    sample = sample_projection()
    plan = sample.headline.plan
    island = IslandShare(
        cluster="h100_100k",
        chip="h100_sxm",
        num_chips=50_000,
        plan=plan,
        sequences=4368,
        step_time_s=3.96,
        tokens_per_second=8.41e6,
        mfu=0.462,
    )
    mixed = dataclasses.replace(sample, islands=(island,))
    facts = dict(projection_facts(mixed))
    assert "plan" not in facts
    assert facts["h100_100k"] == (
        f"50,000 x h100_sxm: {plan.label}; 4,368 sequences in 3.96 s, 8.41 Mtokens/s of the whole, "
        "46.2 % MFU"
    )
    assert "h100_100k" in text_of(projection_view(mixed))


def test_mlflow_has_power_and_cost_by_number_of_chips(tmp_path: object) -> None:
    projection = at_scale()
    folder: RunFolder = write_run(tmp_path, projection=projection)  # type: ignore[arg-type]
    points = {(point.key, point.step): point.value for point in projection_content(folder).points}
    names = {name for name, _ in points}
    for name in ("goodput", "useful_tokens_per_s", "site_mw", "cost_per_million_tokens"):
        assert name in names
        assert (f"by_number_of_chips/{name}", 100_000) in points
    assert {"train_days", "train_kwh", "train_cost"} <= names


def test_the_chart_of_the_wall_time_adds_up_at_each_number_of_chips() -> None:
    projection = at_scale()
    few = dataclasses.replace(
        projection.headline,
        num_chips=512,
        wall_time=dataclasses.replace(
            WALL_TIME, share=0.9, losses=(("waiting for spare hosts", 0.1),)
        ),
    )
    plot = wall_time_plot.figure(dataclasses.replace(projection, scaling=(few,)))
    assert [tuple(trace.x) for trace in plot.data] == [(512, 100_000)] * 5
    for place in range(2):
        assert sum(trace.y[place] for trace in plot.data) == pytest.approx(100, abs=0.02)
    assert [trace.name for trace in plot.data][:2] == ["training", "coming back from failures"]


def test_useful_throughput_has_the_interval_of_both_its_factors() -> None:
    point = at_scale().headline
    found = point.useful_tokens_per_second_interval
    assert found is not None
    tokens = point.tokens_per_second
    assert 0.7 * tokens.low < found.low < min(0.7 * tokens.value, 0.8 * tokens.low)
    assert max(0.9 * tokens.value, 0.8 * tokens.high) < found.high < 0.9 * tokens.high
    assert dataclasses.replace(point, wall_time=None).useful_tokens_per_second_interval is None
