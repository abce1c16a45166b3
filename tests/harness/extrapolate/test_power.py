import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.errors import ConfigError
from harness.extrapolate.at_scale import slower_parts
from harness.extrapolate.chip_power import ChipPower, chip_power, fitted
from harness.extrapolate.cluster import ClusterSpec, Power, Price
from harness.extrapolate.goodput import goodput
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.plan_step import step_time
from harness.extrapolate.power import (
    POWER_LESS,
    POWER_MORE,
    UNDISTURBED,
    draw_of,
    energy_use,
    run_energy_kwh,
    training_energy_kwh,
)
from harness.extrapolate.step import StepModel
from harness.extrapolate.step_power import (
    StepWork,
    clock_factor,
    computing_w,
    network_bytes,
    step_work,
)
from harness.projection import EnergyUse, PlanChoice
from harness.record import Energy, Record
from harness.units import GIGA
from kernels import registry
from kernels.op import Problem, problem
from tests.harness.extrapolate.measured import record

H100 = load_chip("h100_sxm")
CLUSTER = load_cluster("h100_16k")
PARALLEL = load_parallel("search")
GPT3_ON_512 = PlanChoice(
    tensor=4, pipeline=8, data=16, virtual_stages=12, microbatch_size=1, num_microbatches=128
)
"""MLPerf Training GPT-3 on 512 H100: TP 4, PP 8, a batch of 2,048 sequences."""


def model_of(name: str, cluster: ClusterSpec, length: int, linear_dtype: str = "") -> StepModel:
    parallel = dataclasses.replace(PARALLEL, sequence_length=length, linear_dtype=linear_dtype)
    return StepModel.of(load_model(name), cluster, Lookup(H100, registry.cost), parallel)


def used(
    steps: StepModel, plan: PlanChoice, cluster: ClusterSpec, step_s: float | None = None
) -> EnergyUse:
    assert cluster.power is not None
    chip = chip_power(H100, cluster.power)
    assert chip is not None
    step_s = step_s or step_time(steps, plan).seconds
    tokens = plan.data * plan.num_microbatches * plan.microbatch_size * steps.sequence_length
    return energy_use(
        (draw_of(cluster, chip, step_work(steps, plan, chip), plan.num_chips),),
        step_s=step_s,
        step_tokens=float(tokens),
        wall_time=goodput(
            cluster, num_chips=plan.num_chips, state_bytes=1e12, step_s=step_s, num_replicas=16
        ),
    )


def test_512_h100_draw_what_mlperf_measured() -> None:
    # MLPerf Training v4.0 power, 64 nodes of 8 H100, GPT-3 in fp8: 415.2 kWh in 56.87 minutes at
    # the wall, 59.6 kW of it for the interconnect: 855 W for each chip.
    cluster = dataclasses.replace(CLUSTER.with_num_chips(512), spare_hosts=0)
    assert cluster.power is not None
    power = dataclasses.replace(cluster.power, network_w_per_chip=59_570 / 512)
    steps = model_of("gpt3_175b", dataclasses.replace(cluster, power=power), 2048, "fp8")
    use = used(steps, GPT3_ON_512, steps.cluster)
    assert 1 < use.machines_w / 512 / 855 < POWER_LESS
    found = training_energy_kwh(
        steps, GPT3_ON_512, H100, step_s=step_time(steps, GPT3_ON_512).seconds, seconds=56.87 * 60
    )
    assert found == pytest.approx(415.2, rel=0.1)
    assert found == pytest.approx(run_energy_kwh(use, 56.87 * 60), rel=1e-3)


def test_a_node_of_8_h100_draws_what_was_measured_in_training() -> None:
    # Latif et al. (arXiv 2506.14551): 76 % of 10.2 kW, without the network outside the node.
    cluster = dataclasses.replace(CLUSTER.with_num_chips(8), spare_hosts=0)
    assert cluster.power is not None
    power = dataclasses.replace(cluster.power, network_w_per_chip=0.0)
    steps = model_of("llama3_8b", dataclasses.replace(cluster, power=power), 8192)
    plan = PlanChoice(tensor=1, pipeline=1, data=8, num_microbatches=8, zero_stage=3)
    assert 1 < 0.76 * 10_200 / used(steps, plan, steps.cluster).machines_w < POWER_MORE


def test_decoding_one_sequence_draws_what_was_measured() -> None:
    # ML.ENERGY: 300 W at batch 1, where the memory is read at some 70 % of its bandwidth.
    chip = chip_power(H100, power())
    assert chip is not None
    watts = chip.idle_w + 0.7 * 3350 * GIGA * chip.joules_per_memory_byte
    assert watts == pytest.approx(300, rel=0.15)


def power(**changes: float | None) -> Power:
    values: dict[str, float | None] = {
        "host_w": 2000.0,
        "nic_w_per_chip": 25.0,
        "network_w_per_chip": 100.0,
        "pue": 1.25,
    }
    return Power(**(values | changes))  # type: ignore[arg-type]


def test_a_chip_whose_power_nobody_tells_has_none() -> None:
    assert chip_power(load_chip("tpu_v5p"), power()) is None
    told = chip_power(load_chip("tpu_v5p"), power(chip_w=500.0))
    assert told is not None
    assert told.design_w == told.limit_w == 500


def test_the_best_product_draws_nearly_the_design_power() -> None:
    chip = chip_power(H100, power())
    assert chip is not None
    for dtype in ("bf16", "fp8"):
        rate = H100.achievable(dtype)
        assert rate is not None
        assert 0.85 < (chip.idle_w + rate * chip.flop_joules(dtype)) / 700 < 1


def test_energy_that_is_told_is_kept_and_other_types_keep_their_proportion() -> None:
    free, told = chip_power(H100, power()), chip_power(H100, power(joules_per_flop=1e-12))
    assert free is not None
    assert told is not None
    assert told.flop_joules("bf16") == pytest.approx(1e-12)
    assert told.flop_joules("fp8") / 1e-12 == pytest.approx(
        free.flop_joules("fp8") / free.flop_joules("bf16")
    )


def test_a_limit_below_the_idle_chip_is_refused_with_one_that_works() -> None:
    with pytest.raises(
        ConfigError,
        match=r"cluster.power.chip_limit_watts: 100 is not greater than the 161 W of the idle "
        r"chip. Set cluster.power.chip_limit_watts=194 or more.",
    ):
        chip_power(H100, power(chip_limit_w=100.0))
    assert chip_power(H100, power(chip_limit_w=194.0)) is not None


WORK = StepWork(
    matrix_joules=500.0, memory_joules=50.0, network_joules=10.0, matrix_s=0.8, memory_s=0.2
)


def limited(limit_w: float) -> ChipPower:
    return ChipPower(
        design_w=700.0,
        limit_w=limit_w,
        idle_w=126.0,
        joules_per_flop=(("bf16", 1e-12),),
        joules_per_memory_byte=60e-12,
        joules_per_network_byte=80e-12,
    )


TRUTH = ChipPower(
    design_w=700.0,
    limit_w=700.0,
    idle_w=90.0,
    joules_per_flop=(("bf16", 0.5e-12), ("fp32", 5e-12)),
    joules_per_memory_byte=45e-12,
    joules_per_network_byte=80e-12,
)


def measured(made: Problem, seconds: float, *, is_host_bound: bool = False) -> Record:
    """A record of a chip whose power is TRUTH's."""
    cost = registry.cost(made)
    joules = TRUTH.idle_w * seconds + cost.flops * TRUTH.flop_joules(made.dtype)
    joules += cost.num_bytes * TRUTH.joules_per_memory_byte
    found = record(made, seconds)
    assert found.measurement is not None
    energy = Energy(
        joules_per_run=joules * (3 if is_host_bound else 1),
        num_runs=100,
        seconds=100 * seconds,
        mean_power_w=joules / seconds,
        is_host_bound=is_host_bound,
    )
    return dataclasses.replace(
        found, measurement=dataclasses.replace(found.measurement, energy=energy)
    )


GEMMS = [problem("gemm", "bf16", M=1024 * k, N=4096, K=4096) for k in (1, 4, 8)]
COPIES = [problem("copy", "bf16", N=2**k) for k in (24, 26, 28)]


def energies() -> list[Record]:
    gemms = [measured(one, registry.cost(one).flops / 600e12) for one in GEMMS]
    return gemms + [measured(one, registry.cost(one).num_bytes / 3e12) for one in COPIES]


def test_the_chip_s_own_energy_decides_where_it_was_measured() -> None:
    known = dataclasses.replace(
        TRUTH,
        idle_w=161.0,
        joules_per_flop=(("bf16", 1e-12), ("fp32", 10e-12)),
        joules_per_memory_byte=60e-12,
    )
    doubtful = measured(GEMMS[0], 1e-3, is_host_bound=True)
    found = fitted(known, [*energies(), doubtful], registry.cost)
    assert found.num_measured_cases == 6
    assert found.idle_w == pytest.approx(90, rel=1e-3)
    assert found.flop_joules("bf16") == pytest.approx(0.5e-12, rel=1e-3)
    assert found.flop_joules("fp32") == pytest.approx(5e-12, rel=1e-3)
    assert found.joules_per_memory_byte == pytest.approx(45e-12, rel=1e-3)


def test_a_few_cases_or_of_one_kind_decide_nothing() -> None:
    assert fitted(TRUTH, energies()[:5], registry.cost) is TRUTH
    copies = [measured(one, registry.cost(one).num_bytes / 3e12) for one in COPIES * 2]
    assert fitted(TRUTH, copies, registry.cost) is TRUTH


def test_a_rack_of_gb200_draws_what_it_is_built_for() -> None:
    # DGX GB200 is built for some 120 kW; training draws less.
    cluster = load_cluster("gb200_100k").with_num_chips(1152)
    chip = load_chip("gb200")
    parallel = dataclasses.replace(PARALLEL, sequence_length=8192)
    steps = StepModel.of(load_model("llama3_70b"), cluster, Lookup(chip, registry.cost), parallel)
    plan = PlanChoice(tensor=4, pipeline=1, data=288, num_microbatches=8, zero_stage=2)
    assert cluster.power is not None
    known = chip_power(chip, cluster.power)
    assert known is not None
    use = energy_use(
        (draw_of(cluster, known, step_work(steps, plan, known), plan.num_chips),),
        step_s=step_time(steps, plan).seconds,
        step_tokens=1.0,
        wall_time=UNDISTURBED,
    )
    assert use.rack_w is not None
    assert 80e3 < use.rack_w < 120e3


def test_a_limit_at_the_design_power_leaves_the_clock_alone() -> None:
    assert clock_factor(WORK, limited(700.0)) == 1.0


@given(st.floats(200, 690))
def test_the_clock_under_a_limit_just_keeps_it(limit_w: float) -> None:
    chip = limited(limit_w)
    clock = clock_factor(WORK, chip)
    assert 0 < clock <= 1
    assert computing_w(WORK, chip, clock) <= limit_w * (1 + 1e-9)
    if clock < 1:
        assert computing_w(WORK, chip, clock) == pytest.approx(limit_w, rel=1e-6)


def test_half_the_power_costs_less_than_half_the_speed() -> None:
    clock = clock_factor(WORK, limited(400.0))
    assert 0.7 < clock < 0.9


@pytest.fixture(scope="module")
def steps() -> StepModel:
    return model_of("llama3_405b", CLUSTER, 8192)


PLAN = PlanChoice(
    tensor=8, pipeline=16, data=128, virtual_stages=8, microbatch_size=1, num_microbatches=16
)
"""Llama-3.1 405B on 16,384 H100 (arXiv 2407.21783 table 4)."""


def test_the_parts_of_the_power_add_up_to_the_site(steps: StepModel) -> None:
    use = used(steps, PLAN, CLUSTER)
    assert sum(watts for _, watts in use.parts) == pytest.approx(use.site_w)
    assert use.site_w == pytest.approx(1.08 * use.machines_w)
    assert use.site_w < use.peak_site_w < 1.5 * use.site_w
    assert 161 < use.chip_w < 700


def test_100_000_h100_draw_some_hundred_megawatts(steps: StepModel) -> None:
    # 86 to 97 MW at what MLPerf and BNL measured for each chip, before the building.
    use = used(steps, PLAN, CLUSTER)
    assert 80e6 < use.machines_w / CLUSTER.num_chips * 100_000 < 110e6
    # arXiv 2407.21783 section 3.3.1: tens of megawatts between compute and waiting.
    assert 30e6 < use.swing_w / CLUSTER.num_chips * 100_000 < 60e6


def test_energy_per_token_is_power_over_what_stays(steps: StepModel) -> None:
    step_s = step_time(steps, PLAN).seconds
    use = used(steps, PLAN, CLUSTER)
    tokens_per_s = 128 * 16 * 8192 / step_s
    assert use.joules_per_token > use.site_w / tokens_per_s
    assert use.joules_per_token < 1.1 * use.site_w / tokens_per_s
    assert use.kwh_per_million_tokens == pytest.approx(use.joules_per_token / 3.6)


def test_a_longer_step_draws_less_and_costs_more(steps: StepModel) -> None:
    fast = used(steps, PLAN, CLUSTER)
    slow = used(steps, PLAN, CLUSTER, step_s=2 * step_time(steps, PLAN).seconds)
    assert slow.chip_w < fast.chip_w
    assert slow.joules_per_token > fast.joules_per_token
    assert slow.cost_per_million_tokens > fast.cost_per_million_tokens  # type: ignore[operator]


def test_recomputation_takes_energy() -> None:
    steps = model_of("llama3_405b", CLUSTER, 8192)
    chip = chip_power(H100, power())
    assert chip is not None
    joules = {
        recompute: step_work(steps, dataclasses.replace(PLAN, recompute=recompute), chip)
        for recompute in ("none", "selective", "full")
    }
    assert joules["none"].joules < joules["selective"].joules < joules["full"].joules
    ratio = joules["full"].matrix_joules / joules["none"].matrix_joules
    assert ratio == pytest.approx(4 / 3, rel=0.03)


def test_flops_of_the_work_are_those_of_the_model(steps: StepModel) -> None:
    chip = dataclasses.replace(limited(700.0), joules_per_flop=(("bf16", 1.0),))
    counted = step_work(steps, PLAN, chip).matrix_joules * PLAN.num_chips
    tokens = 128 * 16 * 8192
    assert counted == pytest.approx(tokens * steps.model.model_flops_per_token(8192), rel=0.02)


def test_one_chip_sends_nothing(steps: StepModel) -> None:
    alone = PlanChoice(tensor=1, pipeline=1, data=1, num_microbatches=4)
    assert network_bytes(steps, alone) == 0
    assert network_bytes(steps, PLAN) > 0


def test_rent_is_paid_by_the_hour_and_a_machine_by_its_life_and_electricity() -> None:
    rented = Price(currency="USD", per_chip_hour=2.0)
    assert rented.per_hour(100, 1e6) == 200
    bought = Price(
        currency="USD", purchase_per_chip=40_000, lifetime_hours=40_000, electricity_per_kwh=0.1
    )
    assert bought.per_hour(100, 1e6) == pytest.approx(100 + 100)


def test_a_power_limit_is_a_part_of_the_step(steps: StepModel) -> None:
    assert CLUSTER.power is not None
    cluster = dataclasses.replace(
        CLUSTER, power=dataclasses.replace(CLUSTER.power, chip_limit_w=450)
    )
    capped = model_of("llama3_405b", cluster, 8192)
    step = step_time(capped, PLAN)
    parts = {part.name: part.seconds for part in slower_parts(capped, step, H100, 16384)}
    assert 0 < parts["power limit"] < 0.3 * step.seconds
    assert slower_parts(steps, step, H100, 16384) == ()


def test_the_clusters_of_the_files_have_power_and_a_price() -> None:
    for name in ("h100_100k", "gb200_100k", "ascend_910c_100k", "mi300x_100k"):
        cluster = load_cluster(name)
        assert cluster.power is not None
        assert cluster.price is not None
        assert chip_power(load_chip(cluster.chip), cluster.power) is not None
