"""Case ids by a pattern with `*`, as `gemm.*/triton`."""

import re


def matches(pattern: str, case_id: str) -> bool:
    """`*` stands for any text, and all else for itself: ids have brackets, as shell patterns do."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), case_id) is not None
