"""What becomes of a row: the model, plan, types and software it ran with."""

import pytest

from harness.extrapolate.calibration import NONE
from harness.validation.metrics import STEP_METRICS
from harness.validation.predict import Predictor, plan_of
from harness.validation.rows import Dropped, PublishedFigure, PublishedRun, read_run
from tests.harness.validation.published_row import row


def run(**cells: str) -> PublishedRun:
    found = read_run(row(**cells))
    assert isinstance(found, PublishedRun), found
    return found


def reason(**cells: str) -> str:
    found = read_run(row(**cells))
    assert isinstance(found, Dropped)
    return found.reason


def test_sizes_that_a_row_leaves_empty_are_those_of_the_public_model() -> None:
    model = run().model
    assert (model.num_layers, model.hidden, model.num_kv_heads) == (80, 8192, 8)


def test_sizes_that_a_row_gives_are_its_own() -> None:
    sizes = {"layers": "2", "hidden": "64", "ffn_hidden": "128", "heads": "4", "vocab": "512"}
    model = run(**sizes, tp="1", pp="1").model
    assert (model.num_layers, model.hidden, model.ffn) == (2, 64, 128)


def test_an_unknown_model_without_sizes_is_not_guessed() -> None:
    assert reason(model="secret-1t") == "layers, hidden, ffn_hidden, heads, vocab not given"


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("llama3.1-405b", "llama3_405b"),
        ("llama-2-7b", "llama2_7b"),
        ("Llama3.2-3B", "llama3_2_3b"),
        ("nemotron4-340b", "nemotron4_340b"),
        ("nemotron-22b", "nemotron3_22b"),
        ("nemotron-3-nano", "nemotron3_nano_30b_a3b"),
        ("mixtral-8x22b", "mixtral_8x22b"),
        ("maxtext-128b", "maxtext_128b"),
        ("palm-540b", "palm_540b"),
    ],
)
def test_a_name_is_that_of_a_public_model(model: str, file: str) -> None:
    assert run(model=model, tp="1", pp="1", vpp="1", chips="64").model.name == file


def test_a_model_cut_short_keeps_a_dense_layer() -> None:
    # DeepSeek-V3 has 3 dense layers of 61; its 4 layers in SimuMax are one and three others.
    model = run(model="deepseek-v3 (4 layers)", layers="4", tp="1", pp="1", vpp="1").model
    assert (model.num_dense_layers, model.num_moe_layers) == (1, 3)


def test_the_layers_of_a_hybrid_are_its_own_pairs_of_blocks() -> None:
    model = run(model="nemotron-3-nano", layers="52", tp="1", pp="1", vpp="1").model
    assert model.num_layers == 29


@pytest.mark.parametrize(
    ("cells", "types"),
    [
        ({"precision": ""}, ("bf16", "")),
        ({"precision": "NVFP4"}, ("bf16", "fp4")),
        ({"precision": "fp16/bf16 (recalled)"}, ("bf16", "")),
        ({"precision": "int8 (AQT)"}, ("bf16", "int8")),
        (
            {"precision": "", "source": "MLPerf Training v3.0 closed, Intel-HabanaLabs"},
            ("bf16", ""),
        ),
        (
            {"precision": "", "source": "MLPerf Training v3.1 closed, Intel-HabanaLabs"},
            ("bf16", "fp8"),
        ),
        ({"precision": "", "source": "Megatron-LM SC21 Table 1"}, ("fp16", "")),
    ],
)
def test_types_are_the_rows_or_its_sources(cells: dict[str, str], types: tuple[str, str]) -> None:
    parallel = run(**cells).parallel
    assert (parallel.dtype, parallel.linear_dtype) == types


def test_a_type_without_a_rate_is_named() -> None:
    assert reason(precision="posit8") == "precision posit8 has no ops yet"


@pytest.mark.parametrize(
    ("cells", "software"),
    [
        ({"source": "Megatron-LM 2020 scaling tables"}, "megatron_2020"),
        ({"source": "vTrain, measured ground truth"}, "megatron_2021"),
        ({"source": "PaLM Table 3", "model": "mt-nlg-530b"}, "deepspeed_2021"),
        ({"source": "Korthikanti et al. 2205.05198 Table 5"}, "megatron_2022"),
        ({"source": "MLPerf Training v5.0 closed, Nebius"}, "mlperf_2025"),
        ({"source": "MLPerf Training v4.0 closed, Google"}, "paxml"),
        ({"source": "MLPerf Training v3.1 closed, Intel-HabanaLabs"}, "gaudi"),
        ({"source": "NVIDIA dgxc-benchmarking 24.11.1 recipe"}, "nemo_2024"),
        (
            {"source": "dgxc-benchmarking 24.11.1", "source_locator": "paxml/README.md"},
            "paxml_gpu",
        ),
        (
            {
                "source": "NVIDIA Megatron-Bridge performance summary",
                "source_locator": '"25.09 NeMo Container" Pre-Training',
            },
            "megatron_bridge_2025",
        ),
        ({"source": "Google tpu-recipes Ironwood summary"}, "maxtext"),
        ({"source": "a report"}, "nemo_2025"),
        ({"source": "Megatron-LM SC21 Table 2", "zero": "3"}, "deepspeed_2021"),
    ],
)
def test_software_follows_from_the_source(cells: dict[str, str], software: str) -> None:
    known = cells.get("model", "llama3-70b")
    assert run(**{**cells, "model": known, "precision": "bf16"}).software == software


def test_old_software_writes_scores_and_does_not_cut_sequences() -> None:
    old, new = run(source="Megatron-LM SC21 Table 1"), run()
    assert (old.is_attention_fused, old.is_sequence_parallel) == (False, False)
    assert (new.is_attention_fused, new.is_sequence_parallel) == (True, True)


def test_maxtext_shares_weights_over_all_chips_and_does_not_accumulate() -> None:
    cells = {"source": "MaxText", "tp": "", "pp": "", "vpp": "", "micro_batch": ""}
    plan = plan_of(run(**cells))
    assert plan is not None
    assert (plan.tensor, plan.pipeline, plan.data, plan.zero_stage) == (1, 1, 64, 3)
    assert (plan.microbatch_size, plan.num_microbatches, plan.recompute) == (2, 1, "full")


def test_torchtitan_pipelines_as_many_microbatches_as_stages() -> None:
    # The row gives the batch of a replica, 8 sequences, as its microbatch.
    cells = {"source": "torchtitan benchmarks", "micro_batch": "8", "vpp": "1", "dp": "4"}
    plan = plan_of(run(**cells, zero="3", global_batch_seqs="32"))
    assert plan is not None
    assert (plan.num_microbatches, plan.microbatch_size) == (4, 2)


def test_degrees_that_are_not_told_are_searched_among_plans_that_fit() -> None:
    found = Predictor(NONE).predict(run(tp="", pp="", vpp="", micro_batch=""))
    assert not isinstance(found, Dropped)
    assert found.memory_share <= 1
    assert found.step.plan.num_chips <= 64


def test_a_recipe_fills_what_its_source_fixes() -> None:
    filled = run(
        source="MaxText on GCP A3 H100",
        source_locator="src/maxtext/configs/gpu/a3/llama_2_7b/README.md",
        model="llama2-7b",
        **dict.fromkeys(("seq_len", "global_batch_seqs", "tp", "pp", "vpp", "micro_batch"), ""),
    )
    assert filled.parallel.sequence_length == 4096
    assert filled.parallel.global_batch_sequences == 4 * 64


def test_a_batch_follows_from_the_seconds_and_the_rate_in_the_notes() -> None:
    # 8 s of 2048 tokens/s on 64 chips are 128 sequences of 8192.
    filled = run(global_batch_seqs="", metric_value="8", notes="step 8s; tokens/s/device=2048")
    assert filled.parallel.global_batch_sequences == 128


def test_what_nothing_tells_is_named() -> None:
    assert reason(global_batch_seqs="", seq_len="") == "seq_len, global_batch_seqs not given"


def test_adapters_train_no_weights() -> None:
    assert not run(source_locator='"26.06 NeMo Container" LoRA Performance').are_weights_trained
    assert run().are_weights_trained


def test_an_ablation_is_predicted_once_it_has_what_the_model_assumes() -> None:
    assert "ablation" in reason(notes="+TP overlap (cumulative)")
    assert run(notes="+DP overlap (cumulative)").num_chips == 64


@pytest.mark.parametrize("metric", [name for name in STEP_METRICS if name != "time_to_train_min"])
def test_a_metric_of_a_step_goes_there_and_back(metric: str) -> None:
    found = run(metric_name=metric, metric_value="42")
    assert found.value(found.step_time_s) == pytest.approx(42)
    slower = found.value(2 * found.step_time_s)
    assert slower == pytest.approx(84 if metric.startswith("step_time") else 21)


def test_rates_of_all_chips_are_that_of_one_times_the_chips() -> None:
    one = run(metric_name="tokens_per_s_per_chip", metric_value="100")
    all_chips = run(metric_name="tokens_per_s_total", metric_value="6400")
    assert one.step_time_s == pytest.approx(all_chips.step_time_s)


def test_utilization_is_of_the_peak_that_the_source_names() -> None:
    of_sheet = run(metric_name="mfu_pct", metric_value="40")
    other = run(metric_name="mfu_pct", metric_value="40", flops_convention="model flops of 494.5")
    assert other.step_time_s == pytest.approx(2 * of_sheet.step_time_s)


def test_a_metric_that_is_none_of_a_step_is_a_figure() -> None:
    assert isinstance(read_run(row(metric_name="goodput_pct")), PublishedFigure)


def test_a_row_whose_rates_are_of_two_runs_is_dropped_with_both() -> None:
    # 128 sequences of 8192 in 10 s are 1638 tokens/s on each of 64 chips.
    assert run(notes="tokens/s/GPU=1640").num_chips == 64
    assert "3000 tokens/s per chip, and what it publishes means 1638" in reason(
        notes="tokens/s/GPU=3000"
    )


def test_a_row_whose_flops_are_not_its_models_is_dropped() -> None:
    # 70.6 B parameters are about 450 GFLOPs per token: 737 TFLOP/s at 1638 tokens/s.
    assert run(notes="model_TFLOPs/GPU=737").num_chips == 64
    assert "inconsistent" in reason(notes="model_TFLOPs/GPU=100")
    assert "inconsistent" in reason(notes="model_TFLOPs/GPU=2000")
