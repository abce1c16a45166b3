"""Some cases of many, by id or by a pattern with `*`."""

from collections.abc import Sequence

from harness.case_pattern import matches
from harness.errors import ConfigError, did_you_mean


def selected(case_ids: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    """Those that one of the patterns names; all of them where there is no pattern.

    Raises:
        ConfigError: for a pattern that names none.
    """
    for pattern in only:
        if not any(matches(pattern, case_id) for case_id in case_ids):
            raise ConfigError(
                f"--case: '{pattern}' is none of the {len(case_ids)} cases. "
                f"{did_you_mean(pattern, case_ids)}A pattern has `*` for any text, as 'gemm.*'."
            )
    return tuple(
        case_id
        for case_id in case_ids
        if not only or any(matches(pattern, case_id) for pattern in only)
    )
