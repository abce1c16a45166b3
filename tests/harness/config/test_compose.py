"""What a user may write, and what is said when it is wrong: one line with the way out."""

import re
from pathlib import Path

import pytest

from harness.cases import CLOSURE_ROLE, Case
from harness.config.build import RunRequest, project_request, run_request, tune_request
from harness.config.compose import check_sweep, compose
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.errors import ChipscaleError, ConfigError
from harness.measure.policy import Cache, Values
from harness.roofline import MIN_SEARCHED
from harness.workload.layer import is_layer, work_of_layer
from kernels import registry

TRAINING_OPS = {
    "add",
    "adamw",
    "attention",
    "copy",
    "cross_entropy",
    "embedding",
    "gemm",
    "rms_norm",
    "rope",
    "swiglu",
}
"""What a training step of every model here is made of."""
EXPERT_OPS = {"grouped_gemm", "moe_permute", "moe_route", "moe_unpermute"}
"""What a mixture of experts adds."""


def request_of(*overrides: str) -> RunRequest:
    return run_request(compose("run", overrides))


def problems_of(cases: tuple[Case, ...]) -> set[str]:
    return {case.problem.op for case in cases}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("suite=quik", "suite: no suite named 'quik'. Did you mean 'quick'? `chipscale list"),
        ("model=llama3_9b", "model: no model named 'llama3_9b'. Did you mean 'llama3_8b'?"),
        ("device=cudaa", "device: no device named 'cudaa'. Did you mean 'cuda'?"),
        ("modle=llama3_8b", "modle: no such key. Did you mean 'model'?"),
        ("measure.timeuot_s=1", "Did you mean 'measure.timeout_s'?"),
        ("+foo=1", "foo: no such key."),
        ("suite.ops=[swiglo]", "suite.ops[0]: no op named 'swiglo'. Did you mean 'swiglu'?"),
        ("suite.ops=gemm", "suite.ops: 'gemm' is not a list. Write suite.ops=[gemm]."),
        ("impls=[tritn]", "impls[0]: 'tritn' is not allowed. Did you mean 'triton'?"),
        ("impls=[]", "impls: the list is empty."),
        ("measure.timeout_s=abc", "'abc' is not a number. It is 1.0 by default."),
        ("measure.timeout_s=[1]", "measure.timeout_s: '[1]' is not a number."),
        ("measure.seed=a", "measure.seed: 'a' is not a whole number. It is 0 by default."),
        ("device.index=a", "device.index: 'a' is not a whole number."),
        ("tracking.required=perhaps", "tracking.required: 'perhaps' is not true or false."),
        ("impls=triton", "impls: 'triton' is not a list, as impls=[a,b]."),
        ("results_dir=[a]", "results_dir: '[a]' is not a text. It is results by default."),
        ("measure={a: 1}", "measure: '{a: 1}' is not a table of keys"),
        ("device.fake.faults=[1]", "device.fake.faults: '[1]' is not a table of keys"),
        ("model=[llama3_8b,qwen3_32b]", "one model at a time. `chipscale run -m model=a,b`"),
        ("~model", "nothing can be taken out"),
        ("suite.ops=[gemm", "close its brackets"),
        ("suite.ops=[]", "suite.ops: the list is empty"),
        ("suite.roofs=gemm", "suite.roofs: 'gemm' is not a list."),
        ("measure.timeout_s=0", "measure.timeout_s: 0.0 is not greater than 0."),
        ("measure.max_samples=2", "Set it to 20 or more."),
        ("inputs=ones", "inputs: 'ones' is not allowed. Allowed are normal, zeros, sparse."),
        ("measure.cache=warm", "measure.cache: 'warm' is not allowed. Allowed are cold, hot."),
        ("device.fake.peak_flops_per_s=0", "device.fake.peak_flops_per_s: 0.0 is not above 0"),
        ("device.fake.launch_s=-1", "device.fake.launch_s: -1.0 is less than 0"),
        ("device.fake.faults={gemm:hangs}", "Did you mean 'hang'?"),
        ("device.fake.faults={gem:hang}", "no op named 'gem'. Did you mean 'gemm'?"),
        ("model=llama3_8b,qwen3_32b", "several values are a sweep; `chipscale run -m"),
        ("suite", "'suite' is not an override"),
        ("suite.phases=[{phase: training, tensor: 7}]", "7 does not divide the 32 query heads"),
        ("suite.phases=[{phase: traning}]", "Did you mean 'training'?"),
        ("+suite.layers=[{phase: decode, tenser: 8}]", "suite.layers[0].tenser: no such key. Did"),
        ("+suite.layers=[{phase: decode, tensor: 7}]", "suite.layers[0]: shard.tensor: 7 does not"),
        ("+suite.closure=[{phase: decode, tensor: 7}]", "suite.closure[0]: shard.tensor: 7 does"),
        ("+suite.closure=[{op: copy, axes: {N: 1}}]", "'copy' is no whole layer. Allowed: dense_l"),
        ("+suite.closure=[{phase: decode, caches: hot}]", "Write caches: [hot]."),
        ("+suite.closure=[{phase: decode, caches: [warm]}]", "caches[0]: 'warm' is not allowed."),
        ("+suite.closure=[3]", "suite.closure[0]: 3 is not a table of keys."),
        ("suite.problems=[{op: copy, axes: {N: 0}}]", "suite.problems[0].axes.N: 0 is not a whole"),
        (
            "suite.problems=[{op: gemm, axes: {M: 4}}]",
            "N, K of gemm missing. Its axes are M, N, K",
        ),
        ("suite.problems=[{op: copy, mode: wgrad, axes: {N: 1}}]", "'wgrad' is not allowed."),
        ("suite.roofs=[{op: gemm, axs: {M: 1}}]", "suite.roofs[0].axs: no such key. Did you mean"),
        (
            "suite.roofs=[{op: copy, cache: warm, axes: {N: 1}}]",
            "suite.roofs[0].cache: 'warm' is not",
        ),
        (
            "suite.roofs=[{op: copy, impls: [c], axes: {N: 1}}]",
            "suite.roofs[0].impls[0]: 'c' is not",
        ),
        ("suite.roofs=[{op: copy, impls: torch, axes: {N: 1}}]", "Write impls: [torch]."),
        (
            "suite.roofs=[{op: copy, axes: [{N: 1}, {M: 1}]}]",
            "suite.roofs[0].axes: N of copy missing",
        ),
        ("model.num_layers=x", "model.num_layers: 'x' is not a whole number"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(override: str, words: str) -> None:
    with pytest.raises(ChipscaleError) as caught:
        request_of(override)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("suite", ["quick", "training", "inference"])
@pytest.mark.parametrize(
    "model",
    [
        "llama3_8b",
        "llama3_70b",
        "llama3_405b",
        "qwen3_32b",
        "qwen3_235b_a22b",
        "deepseek_v3",
    ],
)
def test_every_suite_follows_from_every_model(suite: str, model: str) -> None:
    request = request_of(f"suite={suite}", f"model={model}")
    assert request.suite == suite
    assert problems_of(request.cases) <= set(registry.names())
    modes = {case.problem.mode for case in request.cases}
    if suite == "inference":
        assert modes == {"forward"}
    else:
        assert modes == {"forward", "backward", "dgrad", "wgrad"}
        has_experts = model in ("qwen3_235b_a22b", "deepseek_v3")
        assert problems_of(request.cases) == TRAINING_OPS | (EXPERT_OPS if has_experts else set())


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("qwen3_32b", {"dense_layer"}),
        ("qwen3_235b_a22b", {"moe_layer"}),
        ("deepseek_v3", {"latent_layer", "latent_moe_layer"}),
    ],
)
def test_whole_layers_are_measured_beside_their_ops(model: str, names: set[str]) -> None:
    request = request_of("suite=layers", f"model={model}")
    for name in names:
        layers = [case for case in request.cases if case.problem.op == name]
        assert [(case.problem.mode, case.roles) for case in layers[::3]] == [
            ("training", ("closure", "training")),
            ("prefill", ("closure", "prefill")),
            ("decode", ("closure", "decode")),
        ]
    assert problems_of(request.cases) >= {*TRAINING_OPS, *names}


@pytest.mark.parametrize(
    ("suite", "num_layers"), [("closure", 3), ("closure_gpu", 4), ("layers", 3)]
)
def test_a_closure_measures_each_layer_in_the_middle_of_all_its_ops(
    suite: str, num_layers: int
) -> None:
    cases = [case for case in request_of(f"suite={suite}").cases if CLOSURE_ROLE in case.roles]
    problems = list(dict.fromkeys(case.problem for case in cases))
    layers = [problem for problem in problems if is_layer(problem)]
    assert len(layers) == num_layers
    for layer in layers:
        assert {item.problem for item in work_of_layer(layer)} <= set(problems)
    first = problems.index(layers[0])
    ops = {item.problem for item in work_of_layer(layers[0])}
    assert abs(2 * first - len(ops)) <= 2


def test_a_closure_may_measure_ops_in_both_states_of_the_cache() -> None:
    cases = request_of("suite=closure").cases
    by_cache = {
        cache: {case.problem for case in cases if case.cache == cache} for cache in ("cold", "hot")
    }
    assert by_cache["cold"] == by_cache["hot"]
    assert not any(case.cache for case in cases if is_layer(case.problem))
    assert {case.impl for case in cases} == {"torch"}


def test_chips_may_share_the_experts_of_whole_layers() -> None:
    request = request_of("suite=layers", "model=deepseek_v3", "suite.expert=8")
    layers = {case.problem for case in request.cases if case.problem.op == "latent_moe_layer"}
    assert {layer["E"] for layer in layers} == {256 // 8}
    with pytest.raises(ChipscaleError, match="8 does not divide the 1 experts"):
        request_of("suite=layers", "model=llama3_8b", "suite.expert=8")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=llama3_8b,qwen3_33b", "Did you mean 'qwen3_32b'?"),
        ("measure.sed=1,2", "Did you mean 'measure.seed'?"),
        ("suite=choice(quick,trainin)", "Did you mean 'training'?"),
    ],
)
def test_a_mistake_in_a_sweep_is_told_before_it_starts(override: str, words: str) -> None:
    with pytest.raises(ChipscaleError, match=words.replace("?", r"\?")):
        check_sweep("run", [override])


def test_a_right_sweep_is_let_through() -> None:
    check_sweep("run", ["model=llama3_8b,qwen3_32b", "measure.seed=range(1,4)", "suite=quick"])


def test_an_entry_may_list_types_and_sizes_and_choose_its_cache_and_implementations() -> None:
    entry = "{op: gemm, dtype: [bf16, fp32], axes: [{M: 1, N: 2, K: 3}, {M: 4, N: 5, K: 6}]"
    request = request_of(
        "suite.phases=[]", f"suite.roofs=[{entry}, impls: [torch, triton], cache: hot}}]"
    )
    sizes = ("M=1,N=2,K=3", "M=4,N=5,K=6")
    assert [case.id for case in request.cases] == [
        f"gemm.{dtype}.forward[{size}]/{impl}@hot"
        for dtype in ("bf16", "fp32")
        for size in sizes
        for impl in ("torch", "triton")
    ]
    assert {case.roles for case in request.cases} == {("roof",)}


@pytest.mark.parametrize(("suite", "most"), [("roofs", 20), ("roofs_cpu", 8)])
def test_the_suites_of_roofs_try_enough_shapes_to_be_a_search(suite: str, most: int) -> None:
    cases = request_of(f"suite={suite}").cases
    problems = {case.problem for case in cases}
    products = [one for one in problems if (one.op, one.dtype) == ("gemm", "bf16")]
    assert MIN_SEARCHED <= len(products) <= most
    memory = {case.problem for case in cases if "M" not in case.problem.shape and not case.cache}
    assert len(memory) >= MIN_SEARCHED
    assert {case.cache for case in cases} == {"", "hot"}


def test_roofs_come_first_and_survive_a_choice_of_ops() -> None:
    request = request_of("suite.ops=[attention]")
    assert problems_of(request.cases) >= {"gemm", "copy", "attention"}
    assert [case.roles for case in request.cases if case.problem.op == "gemm"] == [("roof",)] * 3
    assert request.cases[0].roles[0] == "roof"


def test_the_part_of_a_chip_and_the_micro_batch_are_keys_of_a_suite() -> None:
    request = request_of("suite=training", "suite.tensor=4", "suite.microbatch_size=2")
    (attention,) = {
        case.problem
        for case in request.cases
        if case.problem.op == "attention" and case.problem.mode == "forward"
    }
    assert (attention["B"], attention["H"], attention["Q"]) == (2, 32 // 4, 8192)


def test_problems_of_the_user_are_added() -> None:
    request = request_of(
        "suite.phases=[]", "suite.problems=[{op: swiglu, dtype: fp32, axes: {T: 3, F: 5}}]"
    )
    assert [case.problem.id for case in request.cases if "extra" in case.roles] == [
        "swiglu.fp32.forward[T=3,F=5]"
    ] * 3


def test_values_reach_the_frozen_types() -> None:
    request = request_of("measure.cache=hot", "tags.who=me", "device=fake", "device.fake.seed=3")
    assert request.policy.cache is Cache.HOT
    assert request.tags == (("who", "me"),)
    assert request.device.fake.seed == 3


@pytest.mark.parametrize("override", ["inputs=zeros", "measure.inputs=zeros"])
def test_what_inputs_hold_is_a_key_of_its_own_and_one_of_measuring(override: str) -> None:
    assert request_of().policy.inputs is Values.NORMAL
    assert request_of(override).policy.inputs is Values.ZEROS
    assert request_of(override, "measure=careful").policy.inputs is Values.ZEROS
    tuned = tune_request(compose("tune", ["op=gemm", override]))
    assert tuned.policy.inputs is Values.ZEROS


def test_inputs_are_swept_like_any_other_key() -> None:
    check_sweep("run", ["inputs=normal,zeros,sparse"])


def test_the_fake_chip_plays_a_chip_of_another_name_and_other_rates() -> None:
    fake = request_of(
        "device=fake",
        "device.fake.chip=beta",
        "device.fake.peak_flops_per_s=2e14",
        "device.fake.memory_bandwidth_bytes_per_s=3e12",
        "device.fake.launch_s=1e-6",
    ).device.fake
    assert FakeDevice(fake).info.name == "beta"
    assert fake.peak_flops_per_s == 2e14
    assert fake.memory_bandwidth_bytes_per_s == 3e12
    assert fake.launch_s == 1e-6
    assert request_of("device=fake").device.fake == FakeOptions()


def test_the_fake_chip_has_as_much_memory_as_is_wanted() -> None:
    assert request_of("device=fake").device.fake.memory_bytes == 64 * 2**30
    request = request_of("device=fake", "device.fake.memory_bytes=1000")
    assert request.device.fake.memory_bytes == 1000


def test_a_folder_of_the_user_adds_its_own_models(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    source = Path(registry.__file__).parents[1] / "configs" / "model" / "llama3_8b.yaml"
    text = source.read_text(encoding="utf-8").replace("num_layers: 32", "num_layers: 2")
    (tmp_path / "model" / "mine.yaml").write_text(
        text.replace("name: llama3_8b", "name: mine"), encoding="utf-8"
    )
    request = run_request(compose("run", ["model=mine"], [tmp_path]))
    assert (request.model.name, request.model.num_layers) == ("mine", 2)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChipscaleError, match="is not a folder"):
        compose("run", [], [tmp_path / "no"])


def test_a_projection_needs_only_its_own_groups() -> None:
    request = project_request(compose("project", ["model=llama3_70b", "cluster=h100_100k"]))
    assert request.chip is not None
    assert request.chip.name == request.cluster.chip
    assert request.cluster.num_chips == 100_000
    assert request.goal.tokens is None


def test_a_training_run_is_asked_for_by_its_tokens() -> None:
    request = project_request(compose("project", ["train_tokens=15.6e12", "train_loss=1.8"]))
    assert (request.goal.tokens, request.goal.loss) == (15.6e12, 1.8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train_tokens=0",
            "train_tokens: 0 is not a finite number greater than 0. "
            "Set train_tokens=15600000000000.",
        ),
        ("train_tokens=-1e12", "train_tokens: -1000000000000.0 is not a finite"),
        ("train_tokens=many", "train_tokens: 'many' is not a finite number"),
        ("train_loss=nan", "train_loss: nan is not a finite number greater than 0"),
        ("cluster.storage.write_gb_per_s_per_chip=0", "write_gb_per_s_per_chip: 0 is not"),
        ("cluster.num_chips=0", "cluster.num_chips: 0 is not a whole number of at least 1"),
    ],
)
def test_a_wrong_value_of_a_projection_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        project_request(compose("project", [override]))
    assert "\n" not in str(caught.value)


def test_a_mixed_cluster_has_the_chips_of_its_islands() -> None:
    request = project_request(compose("project", ["cluster=mixed_100k"]))
    assert request.chip is None
    assert [chip.name for chip in request.island_chips] == ["h100_sxm", "ascend_910c", "mi300x"]


def test_a_mixed_cluster_takes_no_measured_run() -> None:
    with pytest.raises(ConfigError, match=r"runs: \['latest'\] is given, but .* Set runs=\[\]"):
        project_request(compose("project", ["cluster=mixed_100k", "runs=[latest]"]))


def test_islands_that_do_not_add_up_are_refused_with_numbers_that_do() -> None:
    with pytest.raises(ConfigError, match=r"Set cluster.num_chips=100000, or the islands'"):
        project_request(compose("project", ["cluster=mixed_100k", "cluster.num_chips=90000"]))
