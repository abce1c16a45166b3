"""The generation of software that a published run used, by what its source says.

The rate of a layer depends on the software as much as on the chip: FlashAttention, fused kernels,
cuBLAS and the overlap of communication all came in between. A generation is a framework at a time;
constants are calibrated for one, never for a row.
"""

import re

from harness.validation.cells import Row

DEFAULT = "nemo_2025"
"""What a source that says nothing is taken for: a framework of 2025."""
GENERATIONS = (
    (r"Megatron-LM 2020", "megatron_2020"),
    (r"Megatron-Turing|2201\.11990|mt-nlg|SC21.*ZeRO stage 3", "deepspeed_2021"),
    (r"vTrain|SC21|2104\.04473", "megatron_2021"),
    (r"2205\.05198|Korthikanti|Frontier|2312\.12705", "megatron_2022"),
    (r"MLPerf Training.*(?:Google|TPU)|MLPerf Training v3.*TPU", "paxml"),
    (r"Habana|Gaudi", "gaudi"),
    (r"MLPerf Training v3\.0", "mlperf_2023"),
    (r"MLPerf Training v(?:3\.1|4)", "mlperf_2024"),
    (r"MLPerf Training v[5-9]", "mlperf_2025"),
    (r"[Pp]axml", "paxml_gpu"),
    (r"llm-foundry", "llm_foundry"),
    (r"torchtitan", "torchtitan"),
    (r"maxtext/configs/gpu", "maxtext_gpu"),
    (r"MaxText|maxtext|tpu-recipes", "maxtext"),
    (r"PaLM|2204\.02311", "palm"),
    (r"MegaScale|2402\.15627", "megascale"),
    (r"Llama 3 Herd|2407\.21783|Llama 4", "llama"),
    (r"DeepSeek-V3", "deepseek"),
    (r"NeMo performance summary \(24|dgxc-benchmarking 24|Megatron-Core r0\.[0-8]\b", "nemo_2024"),
    (r"dgxc-benchmarking 25", "nemo_2025"),
    (r"Megatron-Bridge.*\b25\.\d\d(?:\.\d\d)? NeMo", "megatron_bridge_2025"),
    (r"Megatron-Bridge.*\b26\.0[1-5](?:\.\d\d)? NeMo", "megatron_bridge_2026_02"),
    (r"Megatron-Bridge", "megatron_bridge_2026_06"),
    (r"SimuMax", "simumax_2025"),
)
"""Pattern of the source, and its generation; the first that is found holds."""
WITHOUT_SEQUENCE_PARALLELISM = frozenset({"deepspeed_2021", "megatron_2020", "megatron_2021"})
"""Generations from before it was published (arXiv 2205.05198), whose sources leave it empty."""
KEEPS_SCORES = frozenset({"deepspeed_2021", "megatron_2020", "megatron_2021", "megatron_2022"})
"""Generations from before FlashAttention, whose attention writes its scores to memory."""
WITHOUT_ACCUMULATION = frozenset({"maxtext", "maxtext_gpu", "paxml", "palm", "torchtitan"})
"""Frameworks that by default do the whole batch of a replica at once where nothing is pipelined:
MaxText base.yml, gradient_accumulation_steps 1; torchtitan, training.local_batch_size."""
SHARDS_WEIGHTS = frozenset({"maxtext", "maxtext_gpu", "paxml", "palm"})
"""Frameworks whose only default axis shares the weights too (MaxText base.yml,
ici_fsdp_parallelism -1; PaLM, arXiv 2204.02311 section 4)."""


CUTS_EXPERTS = frozenset({"nemo_2024", "nemo_2025"})
"""Generations that by default cut each expert by tensor as well (Megatron-LM,
expert_tensor_parallel_size, which follows tensor_model_parallel_size where it is not set)."""
MERGES_COPIES = frozenset(
    {
        "deepseek",
        "megatron_bridge_2025",
        "megatron_bridge_2026_02",
        "megatron_bridge_2026_06",
    }
)
"""Generations whose dispatch sends a token once to a domain that has several of its experts:
DeepEP (arXiv 2412.19437 section 3.2.2) and its successors."""


ADAPTERS = re.compile(r"\bq?lora\b", re.IGNORECASE)
WITHOUT_WEIGHT_GRADIENTS = 2 / 3
"""Of a step's FLOPs, where adapters are trained beside weights that stay as they are."""


def trains_weights(row: Row) -> bool:
    """Whether the row's run has gradients of all weights, and not of adapters alone."""
    told = f"{row['source_locator']} {row['notes']} {row['model']}"
    return not ADAPTERS.search(told)


def generation(row: Row) -> str:
    """The software of a row, from its source, where that is, its system, model and notes."""
    told = " ".join(
        row[column] for column in ("source", "source_locator", "system", "model", "notes")
    )
    if row["zero"].startswith("3"):
        told += " ZeRO stage 3"
    return next((name for pattern, name in GENERATIONS if re.search(pattern, told)), DEFAULT)
