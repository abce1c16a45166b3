"""The model of a published row: by its name where it is a public one, else by its dimensions."""

import re
from dataclasses import replace
from functools import cache

from harness.config.specs import load_model
from harness.validation.cells import Row, given, required, whole
from harness.workload.model import Experts, ModelSpec

KNOWN = (
    (r"deepseek-v2-lite", "deepseek_v2_lite"),
    (r"deepseek-v2", "deepseek_v2"),
    (r"deepseek-(v3|r1)", "deepseek_v3"),
    (r"gemma-?2-9b", "gemma2_9b"),
    (r"gemma-?2-27b", "gemma2_27b"),
    (r"gemma-?3-12b", "gemma3_12b"),
    (r"gemma-?3-27b", "gemma3_27b"),
    (r"gemma-?4-26b", "gemma4_26b_a4b"),
    (r"gemma-?4-31b", "gemma4_31b"),
    (r"gpt-oss-120b", "gpt_oss_120b"),
    (r"gpt-oss-20b", "gpt_oss_20b"),
    (r"gpt3-5b", "gpt3_5b"),
    (r"gpt3-7b", "gpt3_7b"),
    (r"gpt3-20b", "gpt3_20b"),
    (r"gpt3-40b", "gpt3_40b"),
    (r"gpt3-175b", "gpt3_175b"),
    (r"gpt-22b|megatron-22b", "megatron_22b"),
    (r"gpt-175b", "gpt3_175b"),
    (r"gpt-530b|mt-nlg-530b|turing-530b", "mt_nlg_530b"),
    (r"gpt-1008b|megatron-1t", "megatron_1t"),
    (r"kimi-k2", "kimi_k2"),
    (r"llama-?2-7b", "llama2_7b"),
    (r"llama-?2-13b", "llama2_13b"),
    (r"llama-?2-70b", "llama2_70b"),
    (r"llama-?3(\.1)?-8b", "llama3_8b"),
    (r"llama-?3(\.[13])?-70b", "llama3_70b"),
    (r"llama-?3(\.1)?-405b", "llama3_405b"),
    (r"llama-?3\.2-1b", "llama3_2_1b"),
    (r"llama-?3\.2-3b", "llama3_2_3b"),
    (r"llama-?4-maverick", "llama4_maverick"),
    (r"llama-?4-scout", "llama4_scout"),
    (r"maxtext-16b", "maxtext_16b"),
    (r"maxtext-32b", "maxtext_32b"),
    (r"maxtext-64b", "maxtext_64b"),
    (r"maxtext-128b", "maxtext_128b"),
    (r"mistral-7b", "mistral_7b"),
    (r"mi[sx]tral-8x7b", "mixtral_8x7b"),
    (r"mi[sx]tral-8x22b", "mixtral_8x22b"),
    (r"nemotron-?3-8b|nemotron-8b", "nemotron3_8b"),
    (r"nemotron-?3-22b|nemotron-22b", "nemotron3_22b"),
    (r"nemotron-?4?-15b", "nemotron4_15b"),
    (r"nemotron-?4?-340b", "nemotron4_340b"),
    (r"nemotron-3-nano", "nemotron3_nano_30b_a3b"),
    (r"nemotron-3\.5-(lightning|nano)", "nemotron3_5_lightning"),
    (r"nemotron-3-super", "nemotron3_super_120b_a12b"),
    (r"palm-540b", "palm_540b"),
    (r"qwen-?2\.5-7b", "qwen2_5_7b"),
    (r"qwen-?2\.5-32b", "qwen2_5_32b"),
    (r"qwen-?2\.5-72b", "qwen2_5_72b"),
    (r"qwen-?3-8b", "qwen3_8b"),
    (r"qwen-?3-14b", "qwen3_14b"),
    (r"qwen-?3-30b-a3b", "qwen3_30b_a3b"),
    (r"qwen-?3-32b", "qwen3_32b"),
    (r"qwen-?3-235b-a22b", "qwen3_235b_a22b"),
    (r"grok-?1", "grok_1"),
    (r"starcoder-?2-15b", "starcoder2_15b"),
)
"""How a name begins, and its file in `configs/model/`; the first that fits holds."""
NEEDS_FILE = re.compile(r"deepseek|gpt-oss|kimi|qwen3|llama-?4|gemma|nemotron-3")
"""Models that a table's columns cannot say: heads that are not their width over their number,
latent attention, shared experts, state spaces. The file holds even where columns are filled."""
GATED = (
    "llama",
    "grok",
    "mixtral",
    "mistral",
    "gpt-oss",
    "deepseek",
    "qwen",
    "gemma",
    "palm",
    "yi",
)
DIMENSIONS = ("layers", "hidden", "ffn_hidden", "heads", "vocab")


def file_of(row: Row) -> str | None:
    """The file in `configs/model/` of the public model that the row names, if it is one."""
    name = row["model"].strip().lower()
    return next((file for pattern, file in KNOWN if re.match(pattern, name)), None)


def model_of(row: Row) -> ModelSpec:
    """The row's model.

    Raises:
        UnusableRowError: when no public model has that name and the row does not tell its sizes.
    """
    known = file_of(row)
    is_told = all(row[column] for column in DIMENSIONS)
    if known is not None and (NEEDS_FILE.match(row["model"].strip().lower()) or not is_told):
        return _of_file(known, row)
    required(row, *DIMENSIONS)
    return _of_columns(row)


@cache
def _loaded(name: str) -> ModelSpec:
    return load_model(name)


def _of_file(name: str, row: Row) -> ModelSpec:
    model = _loaded(name)
    layers = whole(row, "layers")
    if layers is None or layers == model.num_layers or model.state_space is not None:
        return model
    experts = model.experts
    if experts is not None and experts.num_dense_layers:
        # A model cut short keeps its share of dense layers, at least one (the 4 layers of
        # DeepSeek-V3 in MooreThreads/SimuMax hold the memory of one dense and three others).
        dense = max(1, round(experts.num_dense_layers * layers / model.num_layers))
        experts = replace(experts, num_dense_layers=dense)
    return replace(model, num_layers=layers, experts=experts)


def _of_columns(row: Row) -> ModelSpec:
    hidden, heads, ffn = given(row, "hidden"), given(row, "heads"), given(row, "ffn_hidden")
    experts = None
    if row["experts"] and float(row["experts"]) > 1:
        top_k = given(row, "topk")
        experts = Experts(
            num_experts=given(row, "experts"), num_experts_per_token=top_k, expert_ffn=ffn
        )
        ffn = 0
    is_gated = row["model"].lower().startswith(GATED)
    return ModelSpec(
        name=row["model"],
        title=row["model"],
        num_layers=given(row, "layers"),
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=whole(row, "kv_heads") or heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocab=given(row, "vocab"),
        is_embedding_tied=not is_gated,
        source=row["source"],
        experts=experts,
        is_ffn_gated=is_gated,
    )
