from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.codec import from_json, to_json
from harness.config.serving_spec import load_serving
from harness.config.specs import list_names, load_chip, load_cluster, load_model
from harness.errors import ConfigError, PlanError
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.serving.plans import replica_plans
from harness.extrapolate.serving.pools import decoded, mixed
from harness.extrapolate.serving.power import site_power
from harness.extrapolate.serving.serve import availability, serve, settled
from harness.extrapolate.serving.spec import ServingSpec, Speculation
from harness.extrapolate.serving.times import PassModel
from harness.extrapolate.serving.uncertainty import REST
from harness.extrapolate.serving.work import decode_core, layer_items, prefill_core
from harness.projection import Source
from harness.record import Record
from harness.serving_projection import ReplicaPlan, ServingMode, ServingProjection
from harness.workload.step import Phase
from kernels import registry
from kernels.op import problem
from tests.harness.extrapolate.measured import record

CHAT = load_serving("chat")


def served(
    model: str = "llama3_8b",
    cluster: str = "h100_100k",
    num_chips: int | None = 64,
    records: tuple[Record, ...] = (),
    strict: bool = False,
    **asked: Any,
) -> ServingProjection:
    network = load_cluster(cluster)
    if num_chips is not None:
        network = network.with_num_chips(num_chips)
    return serve(
        chip=load_chip(network.chip),
        model=load_model(model),
        cluster=network,
        spec=replace(CHAT, **asked),
        cost=registry.cost,
        records=records,
        strict=strict,
    )


def passes(model: str, chip: str = "h100_sxm", **asked: Any) -> PassModel:
    lookup = Lookup(load_chip(chip), registry.cost)
    spec = settled(replace(CHAT, **asked), load_chip(chip), lookup)
    return PassModel(load_model(model), load_cluster("h100_100k"), lookup, spec)


@pytest.fixture(scope="module")
def deepseek() -> ServingProjection:
    return served("deepseek_v3", num_chips=None)


def test_the_best_point_keeps_both_limits_and_uses_no_more_chips(
    deepseek: ServingProjection,
) -> None:
    for point in (deepseek.best, *deepseek.others):
        assert point.ttft_s.value <= 2.0
        assert point.tpot_s.value <= 0.05
        used = sum(pool.num_replicas * pool.plan.num_chips for pool in point.pools)
        assert 0.95 * 100_000 < used <= 100_000


def test_every_number_is_inside_its_interval(deepseek: ServingProjection) -> None:
    best = deepseek.best
    intervals = [best.ttft_s, best.tpot_s, best.tokens_per_s, best.tokens_per_s_per_chip]
    intervals += [best.joules_per_token, best.cost_per_million_tokens]  # type: ignore[list-item]
    for point in deepseek.front:
        intervals += [point.tokens_per_s_per_user, point.tokens_per_s_per_chip]
    for one in intervals:
        assert one is not None
        assert 0 < one.low <= one.value <= one.high


def test_the_front_falls_from_many_tokens_per_chip_to_fast_ones(
    deepseek: ServingProjection,
) -> None:
    users = [point.tokens_per_s_per_user.value for point in deepseek.front]
    chips = [point.tokens_per_s_per_chip.value for point in deepseek.front]
    assert len(users) > 5
    assert (np.diff(users) > 0).all()
    assert (np.diff(chips) < 0).all()
    # Within the limit nothing on the front serves more than the best.
    within = [chip for user, chip in zip(users, chips, strict=True) if user >= 1 / 0.05]
    assert max(within) <= deepseek.best.tokens_per_s_per_chip.value * 1.02


def test_pools_of_a_disaggregated_cluster_are_in_balance(deepseek: ServingProjection) -> None:
    points = (deepseek.best, *deepseek.others)
    (point,) = [one for one in points if one.mode is ServingMode.DISAGGREGATED]
    reads, writes = (pool.num_replicas * pool.requests_per_s for pool in point.pools)
    assert reads == pytest.approx(writes, rel=0.01)


def watts_and_price(projection: ServingProjection) -> tuple[float, float]:
    """Of a chip in use: watts at the site's meter, and the price of an hour."""
    best = projection.best
    used = sum(pool.num_replicas * pool.plan.num_chips for pool in best.pools)
    assert best.joules_per_token is not None
    assert best.cost_per_million_tokens is not None
    per_hour = best.cost_per_million_tokens.value * 3600 * best.tokens_per_s.value / 1e6 / used
    return best.joules_per_token.value * best.tokens_per_s.value / used, per_hour


def test_energy_and_cost_are_those_of_the_clusters_file(deepseek: ServingProjection) -> None:
    # h100_100k: hosts of 2,300 W with 8 chips, 25 W of cards and 135 W of network per chip.
    watts = (700 + 2300 / 8 + 25 + 135) * 1.08
    bought = 50_000 / (4 * 8766)
    assert watts_and_price(deepseek) == pytest.approx((watts, bought + watts / 1000 * 0.08))
    assert deepseek.best.currency == "USD"


def test_without_a_clusters_power_hosts_and_site_are_those_of_the_priors() -> None:
    cluster = load_cluster("h100_100k")
    chip = load_chip(cluster.chip)
    site = site_power(chip, replace(cluster, power=None))
    assert site is not None
    assert site.w_per_chip == pytest.approx(700 * 1.22 * 1.25)
    assert site_power(replace(chip, power_w=None), replace(cluster, power=None)) is None


def test_a_price_that_is_asked_for_is_taken_before_the_clusters() -> None:
    asked = served(price_per_chip_hour=2.0)
    assert watts_and_price(asked)[1] == pytest.approx(2.0)
    assert asked.best.currency == ""


def test_a_power_limit_of_the_cluster_is_the_most_a_chip_draws() -> None:
    cluster = load_cluster("h100_100k")
    assert cluster.power is not None
    limited = replace(cluster, power=replace(cluster.power, chip_limit_w=500.0))
    site = site_power(load_chip(cluster.chip), limited)
    assert site is not None
    assert site.chip_w == 500


def test_the_variance_is_shared_out_among_the_constants(deepseek: ServingProjection) -> None:
    shares = dict(deepseek.variance_shares)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["the model's own error"] > shares["launches" if "launches" in shares else REST]
    assert "power of hosts" not in shares  # It is no part of a rate.


def test_a_projection_reads_back_as_it_was_written(deepseek: ServingProjection) -> None:
    assert from_json(ServingProjection, to_json(deepseek)) == deepseek


@settings(max_examples=6, deadline=None)
@given(st.floats(0.5, 4.0), st.floats(0.015, 0.1), st.floats(1.0, 3.0), st.booleans())
def test_looser_limits_never_serve_less(
    ttft_s: float, tpot_s: float, looser: float, is_first: bool
) -> None:
    tight = served(ttft_s=ttft_s, tpot_s=tpot_s)
    loose = served(
        ttft_s=ttft_s * (looser if is_first else 1), tpot_s=tpot_s * (1 if is_first else looser)
    )
    assert loose.best.tokens_per_s.value >= tight.best.tokens_per_s.value * (1 - 1e-9)


def test_more_chips_serve_in_proportion() -> None:
    few, many = served(num_chips=800), served(num_chips=80_000)
    ratio = many.best.tokens_per_s.value / few.best.tokens_per_s.value
    assert ratio == pytest.approx(100, rel=0.05)


def test_more_sequences_take_longer_per_token_and_give_more_tokens() -> None:
    found = decoded(passes("llama3_8b"), ReplicaPlan(), np.array([1.0, 2, 4, 8, 16, 32, 64]))
    assert (np.diff(found.tpot_s[0]) > 0).all()
    assert (np.diff(found.requests_per_s[0]) > 0).all()


def test_one_sequence_is_decoded_at_the_rate_of_the_memory() -> None:
    """All weights and the cache are read once for each token."""
    model = passes("llama3_70b", weight_dtype="bf16")
    plan = ReplicaPlan(tensor=8)
    found = decoded(model, plan, np.array([1.0]))
    read = (model.model.num_parameters - model.model.embedding_parameters) * 2 / 8 / 3.35e12
    assert 1.1 * read < float(found.tpot_s[0, 0]) < 2.5 * read


def test_a_chunk_beside_decoding_costs_less_than_apart() -> None:
    model = passes("llama3_70b")
    plan, sequences = ReplicaPlan(tensor=8), np.array([32.0])
    alone = float(decoded(model, plan, sequences).pass_s[0, 0])
    together = float(mixed(model, plan, sequences, 512).pass_s[0, 0])
    one = float(mixed(model, plan, np.array([1.0]), 512).pass_s[0, 0])
    assert max(alone, one) < together < alone + one


def test_pipelines_take_longer_per_token_and_keep_their_chips_as_busy() -> None:
    model, sequences = passes("llama3_405b"), np.array([16.0])
    flat = decoded(model, ReplicaPlan(tensor=8), sequences)
    deep = decoded(model, ReplicaPlan(tensor=8, pipeline=4), sequences)
    assert deep.tpot_s[0, 0] > flat.tpot_s[0, 0]
    assert deep.requests_per_s[0, 0] == pytest.approx(4 * flat.requests_per_s[0, 0], rel=0.15)


def test_launching_kernel_by_kernel_makes_small_models_wait_for_the_host() -> None:
    sequences = np.array([1.0])
    graph = decoded(passes("llama3_8b"), ReplicaPlan(), sequences).tpot_s[0, 0]
    eager = decoded(passes("llama3_8b", has_graphs=False), ReplicaPlan(), sequences).tpot_s[0, 0]
    # 32 layers of about 15 kernels, 10 us each.
    assert eager > 0.004
    assert eager > 1.3 * graph


def test_guesses_that_are_right_serve_more_within_the_same_time() -> None:
    plain = served(tpot_s=0.012)
    guessed = served(tpot_s=0.012, speculation=Speculation(num_tokens=1, acceptance=0.9))
    assert guessed.best.tokens_per_s.value > 1.1 * plain.best.tokens_per_s.value
    assert guessed.tokens_per_pass == pytest.approx(1.9)


def test_prompts_in_the_cache_leave_more_for_decoding() -> None:
    half = served(cached_input_share=0.5)
    assert half.best.tokens_per_s.value > 1.1 * served().best.tokens_per_s.value


def test_balanced_experts_decode_faster_than_skewed_ones() -> None:
    plan, sequences = ReplicaPlan(expert=64), np.array([128.0])
    skewed = passes("deepseek_v3")
    even = passes("deepseek_v3")
    even.is_balanced = True
    assert (
        decoded(even, plan, sequences).tpot_s[0, 0] < decoded(skewed, plan, sequences).tpot_s[0, 0]
    )


@pytest.mark.parametrize(
    ("model", "cluster"),
    [
        ("deepseek_v3", "ascend_910c_100k"),
        ("qwen3_30b_a3b", "mi300x_100k"),
        ("gpt3_175b", "a100_4k"),
        ("gpt_oss_120b", "gb200_100k"),
    ],
)
def test_every_kind_of_model_can_be_served(model: str, cluster: str) -> None:
    found = served(model, cluster, None, expert=None)
    assert found.best.tokens_per_s.value > 0
    assert sum(share for _, share in found.source_share) == pytest.approx(1)


@pytest.mark.parametrize("model", list_names("model"))
@pytest.mark.parametrize("phase", [Phase.PREFILL, Phase.DECODE])
@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8"])
def test_every_op_of_every_model_has_a_time(model: str, phase: Phase, weight_dtype: str) -> None:
    known = passes(model, weight_dtype=weight_dtype)
    plan = ReplicaPlan()
    ops = set()
    for kind in known.kinds:
        cores = (
            decode_core(known.model, plan, known.spec, kind, 8)
            if phase is Phase.DECODE
            else prefill_core(known.model, plan, known.spec, kind, 512, 1)
        )
        items = (*layer_items(known.model, plan, known.spec, kind, phase, 512), *cores)
        assert all(known.lookup.time(item.problem).seconds > 0 for item in items)
        ops |= {item.problem.op for item in items}
    assert ops & {"gemm", "scaled_gemm"}
    assert ops & {"attention", "paged_decode", "mla_decode"}


def test_replicas_are_legal() -> None:
    model, cluster = load_model("deepseek_v3"), load_cluster("h100_100k")
    plans = tuple(replica_plans(model, cluster, CHAT))
    assert len(set(plans)) == len(plans) > 50
    for plan in plans:
        assert plan.expert % plan.tensor == 0 or plan.expert == 1
        assert 256 % plan.expert == 0
        assert plan.num_chips == plan.tensor * plan.data * plan.pipeline


def test_a_replica_of_many_chips_is_down_more_often() -> None:
    cluster = load_cluster("h100_100k")
    assert 0.99 < availability(cluster, 512) < availability(cluster, 8) < 1


def test_strict_names_what_was_not_measured() -> None:
    with pytest.raises(PlanError, match=r"strict: \d+ problems of the passes were not measured"):
        served(strict=True)


def test_what_was_measured_counts() -> None:
    asked = {"tensor": 1, "pipeline": 1, "weight_dtype": "bf16", "modes": (ServingMode.AGGREGATED,)}
    plain = served(**asked)
    assert dict(plain.source_share) == {Source.ROOFLINE: pytest.approx(1)}
    copies = [share for share in plain.ops if share.role == "mlp down"]
    (pool,) = plain.best.pools
    tokens = pool.sequences + pool.chunk_tokens
    made = problem("gemm", "bf16", M=tokens, N=4096, K=14336)
    assert copies[0].problem_id == made.id
    again = served(**asked, records=(record(made, copies[0].seconds / 32),))
    products = [share for share in again.ops if share.op == "gemm.bf16.forward"]
    assert products
    assert all(share.source is not Source.ROOFLINE for share in products)


@pytest.mark.parametrize(
    ("model", "asked", "words"),
    [
        ("llama3_8b", {"ttft_s": 0.001}, "serving.ttft_ms: 1 is less than the"),
        ("llama3_8b", {"tpot_s": 0.0001}, "serving.tpot_ms: 0.1 is less than the"),
        (
            "llama3_405b",
            {"weight_dtype": "bf16"},
            "cluster.num_chips: no replica of llama3_405b",
        ),
        ("llama3_8b", {"expert": 8}, "serving.expert: 8 chips would share the experts"),
        ("llama3_8b", {"tensor": 3}, "serving.tensor: 3 does not divide the 32 query heads"),
        ("llama3_8b", {"tensor": 16}, "serving.tensor: 16 is more than the 8 chips"),
        ("llama3_8b", {"pipeline": 64}, "serving.pipeline: 64 stages are more than the 32 layers"),
        ("llama3_8b", {"tensor": 8, "pipeline": 4}, "cluster.num_chips: 8 is less than the 32"),
        (
            "llama3_8b",
            {"output_tokens": 10**9},
            "serving.output_tokens: no replica of llama3_8b",
        ),
        ("deepseek_v3", {"expert": 7}, "serving.expert: 7 does not divide the 256 experts"),
    ],
)
def test_what_cannot_be_served_is_told_with_what_can(
    model: str, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError) as error:
        served(model, num_chips=8, **asked)
    assert words in str(error.value)
    assert any(told in str(error.value) for told in ("Set serving.", "Set cluster.", "Use more"))


@pytest.mark.parametrize("limit", ["ttft", "tpot"])
def test_the_nearest_limit_that_is_told_works(limit: str) -> None:
    with pytest.raises(PlanError) as error:
        served(**{f"{limit}_s": 1e-5})
    told = str(error.value).partition(f"serving.{limit}_ms=")[2].split(" ")[0]
    found = served(**{f"{limit}_s": float(told) * 1e-3})
    assert found.best.tokens_per_s.value > 0


def test_a_type_that_the_chip_has_no_rate_for_is_refused_with_one_it_has() -> None:
    chip = load_chip("ascend_910c")
    spec = ServingSpec(input_tokens=1, output_tokens=1, ttft_s=1.0, tpot_s=1.0, weight_dtype="fp8")
    with pytest.raises(ConfigError, match=r"serving\.weight_dtype: the fp8 rate .* Set serving"):
        settled(spec, chip, Lookup(chip, registry.cost))
