import dataclasses

import pytest

from harness.codec import from_json, to_json
from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import ConfigError, PlanError
from harness.extrapolate.at_scale import TrainingGoal
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.islands import exchange_s
from harness.extrapolate.legal_plans import BATCH_TOLERANCE
from harness.extrapolate.mixed import project_mixed
from harness.extrapolate.project import project
from harness.projection import Projection
from kernels import registry

PARALLEL = dataclasses.replace(load_parallel("search"), global_batch_tokens=2**25)
MIXED = load_cluster("mixed_100k")
NUM_CHIPS = 600


def projected(cluster: ClusterSpec, model: str = "llama3_8b", **parallel: int) -> Projection:
    return project_mixed(
        chips=[load_chip(island.chip) for island in cluster.islands],
        model=load_model(model),
        cluster=cluster,
        parallel=dataclasses.replace(PARALLEL, **parallel),  # type: ignore[arg-type]
        cost=registry.cost,
        goal=TrainingGoal(tokens=1e12),
    )


@pytest.fixture(scope="module")
def found() -> Projection:
    return projected(MIXED.with_num_chips(NUM_CHIPS))


def test_the_islands_share_one_batch(found: Projection) -> None:
    assert [island.num_chips for island in found.islands] == [300, 180, 120]
    sequences = sum(island.sequences for island in found.islands)
    assert sequences == found.headline.global_batch_sequences
    assert sequences / PARALLEL.global_batch_sequences == pytest.approx(1, abs=BATCH_TOLERANCE)


def test_the_share_of_an_island_is_that_of_its_speed(found: Projection) -> None:
    rates = [island.sequences / island.step_time_s for island in found.islands]
    for island, rate in zip(found.islands, rates, strict=True):
        share = island.sequences / found.headline.global_batch_sequences
        assert share == pytest.approx(rate / sum(rates), rel=0.08)


def test_all_islands_end_nearly_together(found: Projection) -> None:
    times = [island.step_time_s for island in found.islands]
    assert max(times) / min(times) < 1.15


def test_the_step_is_the_slowest_island_s_and_the_exchange(found: Projection) -> None:
    slowest = max(island.step_time_s for island in found.islands)
    cluster = MIXED.with_num_chips(NUM_CHIPS)
    exchange = exchange_s(cluster, load_model("llama3_8b").num_parameters)
    assert found.headline.step_time_s.value == pytest.approx(slowest + exchange)
    assert sum(part.seconds for part in found.parts) == pytest.approx(slowest + exchange)
    assert found.headline.step_time_s.low < slowest < found.headline.step_time_s.high


def test_the_islands_tokens_are_all_tokens(found: Projection) -> None:
    total = sum(island.tokens_per_second for island in found.islands)
    assert total == pytest.approx(found.headline.tokens_per_second.value)


def test_use_of_the_chips_is_between_the_islands(found: Projection) -> None:
    shares = [island.mfu for island in found.islands]
    assert None not in shares
    assert found.mfu is not None
    assert found.hfu is not None
    assert 0.8 * min(shares) < found.mfu < max(shares)  # type: ignore[type-var, operator]
    assert found.hfu >= found.mfu * 0.999


def test_power_and_cost_are_of_all_islands(found: Projection) -> None:
    use = found.headline.energy
    assert use is not None
    assert sum(watts for _, watts in use.parts) == pytest.approx(use.site_w)
    assert 700 < use.machines_w / NUM_CHIPS < 1600
    assert use.currency == "USD"
    ends = use.joules_per_token_interval
    assert ends is not None
    assert ends.low < use.joules_per_token < ends.high
    assert found.training_run is not None
    assert found.training_run.cost is not None


def test_failures_of_the_islands_add_up(found: Projection) -> None:
    assert found.headline.wall_time is not None
    wall_time = found.headline.wall_time
    rate = sum(
        island.num_chips * island.reliability.failures_per_chip_hour
        for island in MIXED.with_num_chips(found.headline.num_chips_used).islands
    )
    assert wall_time.interruption_s == pytest.approx(3600 / rate, rel=1e-6)
    assert wall_time.share + sum(lost for _, lost in wall_time.losses) == pytest.approx(1)


def test_it_says_what_it_assumes(found: Projection) -> None:
    text = " ".join(found.assumptions)
    assert "in proportion to its speed (h100_100k" in text
    assert "nothing hides it" in text
    assert "Chips of different makers round alike enough" in text


def test_a_mixed_projection_survives_the_codec(found: Projection) -> None:
    assert from_json(Projection, to_json(found)) == found


def test_the_curve_ends_with_all_chips(found: Projection) -> None:
    sizes = [point.num_chips for point in found.scaling]
    assert sizes == sorted(sizes)
    assert sizes[-1] == NUM_CHIPS
    assert found.scaling[-1] == found.headline


def test_two_equal_islands_do_what_one_cluster_of_both_does() -> None:
    whole = load_cluster("h100_100k").with_num_chips(256)
    half = whole.with_num_chips(128)
    tier = dataclasses.replace(MIXED.tiers[0], bandwidth_bytes_per_s_per_chip=50e9)
    twice = dataclasses.replace(MIXED, num_chips=256, islands=(half, half), tiers=(tier,))
    found = projected(twice)
    one = project(
        chip=load_chip("h100_sxm"),
        model=load_model("llama3_8b"),
        cluster=whole,
        parallel=PARALLEL,
        cost=registry.cost,
        sizes=(),
    )
    first, second = found.islands
    assert first.sequences == second.sequences
    ratio = found.headline.tokens_per_second.value / one.headline.tokens_per_second.value
    assert ratio == pytest.approx(1, abs=0.03)


def test_the_exchange_is_a_ring_over_the_smallest_island_s_links() -> None:
    tier = MIXED.tiers[-1]
    moved = 2 * 2 / 3 * 1e9 * 2
    wanted = moved / (20_000 * tier.achieved_bytes_per_s_per_chip) + 4 * tier.latency_s
    assert exchange_s(MIXED, 1e9) == pytest.approx(wanted)
    assert exchange_s(MIXED.with_num_chips(50_000), 1e12) > 1.9 * exchange_s(MIXED, 1e12)


def test_an_island_that_cannot_hold_the_model_is_named() -> None:
    with pytest.raises(PlanError, match=r"island \w+: parallel: .* but a chip has"):
        projected(MIXED.with_num_chips(24), "llama3_405b")


def test_a_batch_of_fewer_sequences_than_islands_is_refused_with_one_that_works() -> None:
    with pytest.raises(
        PlanError,
        match=r"parallel.global_batch_tokens: 8192 gives island \w+ no sequence. "
        r"Set parallel.global_batch_tokens=16384 or more",
    ):
        projected(MIXED.with_num_chips(NUM_CHIPS), global_batch_tokens=8192)


def test_a_fixed_number_of_replicas_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parallel.data: 8 is fixed, .* Set parallel.data=null"):
        projected(MIXED.with_num_chips(NUM_CHIPS), data=8)
