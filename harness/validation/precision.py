"""The types that a published run computed in, by the row's word or by what its source is."""

import re

from harness.validation.cells import Row, UnusableRowError

PRECISIONS = {
    "bf16": ("bf16", ""),
    "amp_bf16": ("bf16", ""),
    "fp16": ("fp16", ""),
    "fp16/bf16": ("bf16", ""),
    "fp32": ("fp32", ""),
    "fp8": ("bf16", "fp8"),
    "fp8-cs": ("bf16", "fp8"),
    "fp8-ds": ("bf16", "fp8"),
    "fp8-mx": ("bf16", "fp8"),
    "mxfp8": ("bf16", "fp8"),
    "float8": ("bf16", "fp8"),
    "amp_fp8": ("bf16", "fp8"),
    "int8": ("bf16", "int8"),
    "nvfp4": ("bf16", "fp4"),
    "mxfp4": ("bf16", "fp4"),
    "fp4": ("bf16", "fp4"),
}
"""Type of the model, and that of the products with a layer's weights, by the row's first word."""
UNSAID = (
    # "Intel's Gaudi2 ... with FP8", MLCommons, MLPerf Training v3.1 supplemental discussion; v3.0
    # was submitted in bf16.
    (r"MLPerf Training v(?:3\.1|4\.\d).*Habana", "fp8"),
    (r"Megatron-LM 2020|SC21|vTrain|2205\.05198", "fp16"),
)
"""What a source that leaves the column empty used; any other since 2021 trains in bf16."""
DEFAULT = "bf16"


def types(row: Row) -> tuple[str, str]:
    """The type of the model, and that of its layers' products where it is another."""
    words = row["precision"].lower().split()
    if not words:
        source = row["source"]
        words = [next((word for pattern, word in UNSAID if re.search(pattern, source)), DEFAULT)]
    found = PRECISIONS.get(words[0].strip(","))
    if found is None:
        raise UnusableRowError(f"precision {words[0]} has no ops yet")
    return found
