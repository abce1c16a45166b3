import dataclasses
import re

import pytest

from harness.codec import from_json, to_json
from harness.config.specs import list_names, load_chip, load_cluster, load_model, load_parallel
from harness.device.chip import ChipSpec
from harness.errors import ConfigError, PlanError
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.memory import memory_by_stage
from harness.extrapolate.mixed import project_mixed
from harness.extrapolate.plan_step import work_of
from harness.extrapolate.project import cluster_sizes, project
from harness.extrapolate.step import StepModel
from harness.projection import PlanChoice, Projection, Source
from harness.record import Record
from harness.units import GIBI
from kernels import registry
from kernels.op import problem
from tests.harness.extrapolate.measured import record

SEARCH = load_parallel("search")


def projected(
    model: str = "llama3_405b",
    cluster: str = "h100_100k",
    records: tuple[Record, ...] = (),
    num_chips: int | None = None,
    strict: bool = False,
    chip: ChipSpec | None = None,
    device_memory_bytes: float | None = None,
    **parallel: int | str | tuple[int, ...] | None,
) -> Projection:
    spec = load_cluster(cluster)
    if num_chips is not None:
        spec = spec.with_num_chips(num_chips)
    return project(
        chip=chip or load_chip(spec.chip),
        model=load_model(model),
        cluster=spec,
        parallel=dataclasses.replace(SEARCH, **parallel),  # type: ignore[arg-type]
        cost=registry.cost,
        records=records,
        strict=strict,
        device_memory_bytes=device_memory_bytes,
    )


@pytest.fixture(scope="module")
def headline() -> Projection:
    return projected()


def test_the_parts_of_a_projection_add_up(headline: Projection) -> None:
    step = headline.headline.step_time_s
    assert sum(part.seconds for part in headline.parts) == pytest.approx(step.value)
    assert sum(share for _, share in headline.source_share) == pytest.approx(1.0)
    memory = sum(part for _, part in headline.memory_parts)
    assert memory == pytest.approx(headline.memory_bytes_per_chip)
    assert memory <= headline.memory_limit_bytes


def test_every_number_has_an_interval_around_it(headline: Projection) -> None:
    for point in headline.scaling:
        for interval in (point.step_time_s, point.tokens_per_second):
            assert interval.low < interval.value < interval.high


def test_the_interval_is_wider_beyond_the_largest_run_checked(headline: Projection) -> None:
    width = {
        point.num_chips: point.step_time_s.high / point.step_time_s.low
        for point in headline.scaling
    }
    assert width[100_000] > width[16_384]
    assert "16,384 chips of the largest run checked" in headline.interval_basis


def test_the_curve_goes_from_few_chips_to_all(headline: Projection) -> None:
    assert cluster_sizes(100) == (8, 16, 32, 64, 100)
    sizes = [point.num_chips for point in headline.scaling]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 100_000
    assert headline.scaling[-1] == headline.headline
    # 405 billion parameters with their moments do not fit 8 chips of 80 GiB.
    assert sizes[0] > 8


def test_more_chips_give_more_tokens_and_less_use_of_each(headline: Projection) -> None:
    rates = [point.tokens_per_second.value for point in headline.scaling]
    assert rates == sorted(rates)
    assert headline.scaling[-1].mfu < headline.scaling[-4].mfu  # type: ignore[operator]


def test_idle_chips_are_said(headline: Projection) -> None:
    point = headline.headline
    assert point.num_chips_used == point.plan.num_chips <= point.num_chips


def test_a_projection_survives_the_codec(headline: Projection) -> None:
    assert from_json(Projection, to_json(headline)) == headline


@pytest.mark.parametrize("name", list_names("cluster"))
def test_every_cluster_can_be_projected(name: str) -> None:
    spec = load_cluster(name)
    if spec.is_mixed:
        found = project_mixed(
            chips=[load_chip(island.chip) for island in spec.islands],
            model=load_model("llama3_70b"),
            cluster=spec.with_num_chips(1024),
            parallel=SEARCH,
            cost=registry.cost,
        )
    else:
        chip = load_chip("h200_sxm" if spec.chip == "this" else spec.chip)
        found = projected("llama3_70b", name, chip=chip, num_chips=1024)
    assert found.headline.num_chips_used <= 1024
    assert 0.9 < found.headline.goodput < 1
    assert found.headline.energy is not None
    assert 400 < found.headline.energy.site_w / 1024 < 3000


@pytest.mark.parametrize("name", list_names("model"))
def test_every_model_can_be_projected(name: str) -> None:
    length = load_model(name).num_learned_positions or 4096
    # Context and microbatch are fixed, as they multiply the plans and are tested by themselves.
    found = projected(name, num_chips=1024, sequence_length=length, context=1, microbatch_size=1)
    assert found.model == name
    assert 0 < found.headline.mfu < 0.7  # type: ignore[operator]


def test_recomputation_counts_in_hfu_and_not_in_mfu() -> None:
    found = projected("llama3_70b", num_chips=64, recompute="full")
    assert 1.2 < found.hfu / found.mfu < 4 / 3  # type: ignore[operator]
    assert found.headline.mfu == found.mfu


def test_a_fixed_plan_is_kept() -> None:
    found = projected(tensor=8, pipeline=16, data=781, virtual_stages=8)
    plan = found.headline.plan
    assert (plan.tensor, plan.pipeline, plan.data, plan.virtual_stages) == (8, 16, 781, 8)


def test_a_fixed_plan_that_leaves_most_chips_idle_is_refused_with_the_nearest() -> None:
    message = (
        "parallel: data 128 x tensor 8 x pipeline 16 = 16384 chips, but cluster.num_chips is "
        "100000. Set parallel.data=781 and 32 chips stay idle."
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        projected(tensor=8, pipeline=16, data=128)


def test_a_plan_of_more_chips_than_there_are_is_refused() -> None:
    with pytest.raises(PlanError, match=r"= 131072 chips, but .* Set parallel.data=781 and"):
        projected(tensor=8, pipeline=16, data=1024)


def test_a_replica_of_more_chips_than_there_are_is_refused() -> None:
    with pytest.raises(PlanError, match=r"one replica needs 128, but cluster.num_chips is 64"):
        projected(tensor=8, pipeline=16, num_chips=64)


def test_a_model_that_does_not_fit_is_refused_with_the_sum_and_what_fits() -> None:
    with pytest.raises(PlanError) as caught:
        projected(tensor=1, pipeline=1, zero_stage=1, num_chips=4096)
    message = str(caught.value)
    assert re.search(r"weights [\d.]+ \+ gradients [\d.]+ \+ .* GiB per chip", message)
    assert "but a chip has 80.0 GiB" in message
    assert re.search(r"TP\d+ PP\d+ DP\d+ .*fits \([\d.]+ GiB\)", message)


def test_a_model_larger_than_the_cluster_says_so() -> None:
    with pytest.raises(PlanError, match="No plan fits: llama3_405b needs 104 chips at least"):
        projected(num_chips=8)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(PlanError, match=r"200 stages, but llama3_405b has only 126 layers"):
        projected(pipeline=200)


def test_chunks_that_do_not_divide_a_stage_are_refused() -> None:
    with pytest.raises(PlanError, match=r"3 does not divide the 8 layers .*virtual_stages=2"):
        projected(pipeline=16, virtual_stages=3)


def test_a_batch_smaller_than_the_data_group_is_refused() -> None:
    with pytest.raises(PlanError, match=r"Set parallel.global_batch_tokens=6397952 or more"):
        projected(tensor=8, pipeline=16, data=781, global_batch_tokens=2**20)


def test_strict_refuses_with_the_problems_that_were_not_measured() -> None:
    with pytest.raises(PlanError, match=r"^strict: \d+ problems .*\(attention core\)"):
        projected("llama3_8b", num_chips=64, strict=True)


def test_strict_accepts_when_all_was_measured_and_says_so() -> None:
    fixed = {"tensor": 1, "pipeline": 1, "microbatch_size": 1, "context": 1, "zero_stage": 2}
    first = projected("llama3_8b", num_chips=64, recompute="none", **fixed)
    steps = StepModel.of(
        load_model("llama3_8b"),
        load_cluster("h100_100k").with_num_chips(64),
        Lookup(load_chip("h100_sxm"), registry.cost),
        SEARCH,
    )
    problems = {item.problem for item, _, _ in work_of(steps, first.headline.plan)}
    measured = tuple(record(one, 1e-3) for one in problems)
    found = projected(
        "llama3_8b", num_chips=64, records=measured, strict=True, recompute="none", **fixed
    )
    assert dict(found.source_share) == {Source.MEASURED: pytest.approx(1.0)}
    assert found.run_ids == ("run",)


def cpu_records() -> tuple[Record, ...]:
    square = problem("gemm", "fp32", M=512, N=512, K=512)
    copied = problem("copy", "fp32", N=2**22)
    return (
        record(square, 2 * 512**3 / 100e9, roles=("roof",)),
        record(copied, 2 * 4 * 2**22 / 10e9, roles=("roof",)),
    )


CPU = ChipSpec(
    name="cpu",
    title="A processor",
    vendor="any",
    torch_device_type="cpu",
    match=(),
    peak_flops_per_s=(),
    achievable_flops_per_s=(),
    memory_bytes=None,
    memory_bandwidth_bytes_per_s=None,
    l2_bytes=None,
    scaleup_bandwidth_bytes_per_s_per_chip=None,
    scaleup_domain_chips=None,
    scaleout_bandwidth_bytes_per_s_per_chip=None,
    power_w=None,
    source="",
    evidence="",
    notes="",
)


def test_a_chip_without_data_sheet_is_projected_from_what_was_measured() -> None:
    found = projected(
        "llama3_8b",
        "this_100k",
        records=cpu_records(),
        chip=CPU,
        device_memory_bytes=64e9,
        dtype="fp32",
    )
    assert found.memory_limit_bytes == 64e9


def test_mfu_without_a_peak_is_not_known_and_the_share_of_the_roof_is_said() -> None:
    found = projected(
        "llama3_8b",
        "this_100k",
        records=cpu_records(),
        chip=CPU,
        device_memory_bytes=64e9,
        dtype="fp32",
    )
    assert found.mfu is None
    assert found.hfu is None
    assert all(point.mfu is None for point in found.scaling)
    (text,) = (text for text in found.assumptions if "MFU" in text)
    assert re.fullmatch(
        r"The data sheet's fp32 peak is n/a, so MFU and HFU are n/a; model FLOPs are "
        r"\d+\.\d% of the measured fp32 matrix roof\.",
        text,
    )


@pytest.mark.parametrize(("device", "limit"), [(64e9, 64e9), (99e9, 80 * GIBI), (None, 80 * GIBI)])
def test_the_smaller_memory_is_the_limit(device: float | None, limit: float) -> None:
    assert (
        projected("llama3_8b", num_chips=8, device_memory_bytes=device).memory_limit_bytes == limit
    )


def test_the_fullest_stage_decides_which_plan_fits() -> None:
    fixed = {"tensor": 2, "pipeline": 31, "data": 32, "expert": 8, "virtual_stages": 2}
    sizes = {"num_chips": 1984, "sequence_length": 4096}
    with pytest.raises(PlanError, match=r"but a chip has 80.0 GiB. TP\d+ PP\d+ DP\d+ .*fits"):
        projected(
            "deepseek_v3", **fixed, **sizes, microbatch_size=1, recompute="none", zero_stage=1
        )
    plan = projected("deepseek_v3", **sizes).headline.plan
    model = load_model("deepseek_v3")
    stages = tuple(memory_by_stage(model, plan, 4096, "bf16"))
    assert all(use.total_bytes <= 80 * GIBI for _, use in stages)


def test_a_chip_of_unknown_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"chip\.memory_gib: that of cpu is n/a"):
        projected("llama3_8b", "this_100k", records=cpu_records(), chip=CPU, dtype="fp32")


def test_assumptions_name_the_batch_the_failures_and_the_network(headline: Projection) -> None:
    text = " ".join(headline.assumptions)
    assert "67,108,864 were asked for" in text
    assert "critical batch" in text
    assert "spare ones" in text
    assert "Nothing was measured" in text
    assert "not measured." in text
    assert "interrupted every" in text


def test_one_chip_can_be_projected() -> None:
    found = projected("llama3_8b", num_chips=1, chip=load_chip("mi355x"))
    assert found.headline.plan.num_chips == 1


@pytest.mark.parametrize("schedule", ["zb_h1", "zb_h2", "zbv", "dualpipe", "dualpipe_v"])
def test_a_schedule_that_is_asked_for_is_in_the_plan(schedule: str) -> None:
    found = projected("llama3_70b", num_chips=512, pipeline=8, tensor=8, schedule=schedule)
    assert found.headline.plan.schedule == schedule
    assert f" {schedule} " in found.headline.plan.label
    assert all(point.plan.schedule == schedule for point in found.scaling)


def test_1f1b_and_interleaved_are_told_apart_by_their_chunks() -> None:
    fixed = {"num_chips": 512, "pipeline": 8, "tensor": 8}
    plain = projected("llama3_70b", schedule="1f1b", **fixed).headline.plan
    interleaved = projected("llama3_70b", schedule="interleaved", **fixed).headline.plan
    assert (plain.schedule, plain.virtual_stages) == ("1f1b", 1)
    assert interleaved.schedule == "1f1b"
    assert interleaved.virtual_stages > 1


def test_no_schedule_asked_for_is_the_faster_of_1f1b_and_interleaved() -> None:
    fixed = {"num_chips": 512, "pipeline": 8, "tensor": 8}
    both = projected("llama3_70b", **fixed).headline.step_time_s.value
    found = [
        projected("llama3_70b", schedule=name, **fixed).headline.step_time_s.value
        for name in ("1f1b", "interleaved")
    ]
    assert both == pytest.approx(min(found))


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"schedule": "dualpipe", "pipeline": 7}, r"even pipeline, not 7\. Set .*pipeline=8"),
        ({"schedule": "1f1b", "virtual_stages": 2}, r"parallel\.schedule=interleaved"),
        ({"schedule": "zbv", "pipeline": 80}, r"160 stages, .* 126 layers\. Set .*pipeline=63"),
        (
            {
                "schedule": "dualpipe",
                "pipeline": 16,
                "data": 128,
                "microbatch_size": 1,
                "global_batch_tokens": 2**20,
            },
            r"at least 32 microbatches, not 1\. Set",
        ),
    ],
)
def test_a_schedule_that_the_fixed_degrees_rule_out_is_refused(
    fixed: dict[str, object], words: str
) -> None:
    with pytest.raises(PlanError, match=r"^parallel\.schedule: .*" + words):
        projected(**fixed)


def test_a_skewed_schedule_says_what_a_barrier_would_add() -> None:
    found = projected("llama3_70b", num_chips=512, pipeline=8, tensor=8, schedule="zbv")
    assert any("adds up to 7 forward passes" in text for text in found.assumptions)


def test_a_plan_written_before_there_were_schedules_still_reads() -> None:
    old = '{"tensor":8,"pipeline":16,"data":64,"virtual_stages":8}'
    assert from_json(PlanChoice, old).schedule == "1f1b"


@pytest.mark.parametrize("schedule", [None, "1f1b", "zb_h1", "zbv", "dualpipe"])
def test_the_pipeline_is_run_piece_by_piece_as_a_check(schedule: str | None) -> None:
    found = projected("llama3_70b", num_chips=512, pipeline=8, tensor=8, schedule=schedule)
    (said,) = (text for text in found.assumptions if "simulated piece by piece" in text)
    off = float(said.split("(")[-1].split("%")[0])
    assert abs(off) < 5


def test_without_a_pipeline_there_is_nothing_to_run() -> None:
    found = projected("llama3_8b", num_chips=64, pipeline=1)
    assert not any("piece by piece" in text for text in found.assumptions)


def test_layers_of_each_stage_can_be_set() -> None:
    fixed = {"num_chips": 512, "pipeline": 4, "tensor": 8, "virtual_stages": 1}
    even = projected("llama3_70b", **fixed).headline
    uneven = projected("llama3_70b", layers_per_stage=(10, 20, 20, 30), **fixed).headline
    assert uneven.plan.layers_per_stage == (10, 20, 20, 30)
    assert "layers 10-20-20-30" in uneven.plan.label
    assert uneven.step_time_s.value > 1.2 * even.step_time_s.value
    same = projected("llama3_70b", layers_per_stage=(20, 20, 20, 20), **fixed).headline
    assert same.step_time_s.value == pytest.approx(even.step_time_s.value)


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        (
            {"pipeline": 4, "layers_per_stage": (20, 20, 20, 19)},
            r"\[20,20,20,19\] are 79 layers, .* has 80\. .*=\[20,20,20,20\]\.$",
        ),
        ({"pipeline": 4, "layers_per_stage": (20, 20, 20, 22)}, r"=\[20,20,20,20\]\.$"),
        ({"layers_per_stage": (40, 40)}, r"2 stages, but parallel\.pipeline is null.*pipeline=2"),
        (
            {"pipeline": 2, "virtual_stages": 2, "layers_per_stage": (40, 40)},
            r"2 stages, but parallel\.pipeline is 2 with 2 per chip\. Set parallel\.pipeline=1",
        ),
    ],
)
def test_layers_per_stage_that_do_not_fit_are_told_those_that_do(
    fixed: dict[str, object], words: str
) -> None:
    with pytest.raises(PlanError, match=r"^parallel\.layers_per_stage: .*" + words):
        projected("llama3_70b", num_chips=512, **fixed)  # type: ignore[arg-type]


def test_a_batch_beyond_the_critical_one_is_the_first_thing_said() -> None:
    found = projected("llama3_8b", num_chips=1024, global_batch_tokens=2**28)
    assert found.headline.batch is not None
    assert found.headline.batch.batch_tokens > found.headline.batch.critical_tokens
    assert "exceeds the critical batch" in found.assumptions[0]


def test_each_point_of_the_curve_has_its_own_goodput_power_and_batch(headline: Projection) -> None:
    first, *_, last = [point.goodput for point in headline.scaling]
    assert first > 0.98 > 0.85 > last
    watts = [point.energy.site_w for point in headline.scaling if point.energy is not None]
    assert len(watts) == len(headline.scaling)
    assert watts == sorted(watts)
    assert all(point.batch is not None for point in headline.scaling)
    for point in headline.scaling:
        assert point.energy is not None
        for ends in (
            point.useful_tokens_per_second_interval,
            point.energy.joules_per_token_interval,
            point.energy.cost_per_million_tokens_interval,
        ):
            assert ends is not None
            assert ends.low < ends.value < ends.high
    assert headline.training_run is None
