"""Exemptions: regressions that somebody accepted until a day, for a reason, up to a limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from harness.case_pattern import matches
from harness.codec import to_json
from harness.errors import ConfigError, RecordError
from harness.gate.kept_file import read_versioned
from harness.gate_result import Exemption
from harness.units import percent

EXEMPTIONS_SCHEMA_VERSION = 1
"""Raised when the meaning of a field changes; a newer file is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExemptionsFile:
    """What the file holds."""

    schema_version: int = EXEMPTIONS_SCHEMA_VERSION
    exemptions: tuple[Exemption, ...] = ()

    def with_exemption(self, new: Exemption) -> "ExemptionsFile":
        """With one more; an older one of the same cases makes way for it."""
        kept = tuple(one for one in self.exemptions if one.case_id != new.case_id)
        return ExemptionsFile(exemptions=(*kept, new))


def checked(exemption: Exemption, key: str = "exemption") -> Exemption:
    """The same, if it can be applied.

    Raises:
        ConfigError: when its limit, reason or day cannot be meant.
    """
    if not exemption.case_id.strip():
        raise ConfigError(f"{key}.case_id: empty. Name a case, or a pattern as 'gemm.*/triton'.")
    if not 0 < exemption.limit < float("inf"):
        raise ConfigError(
            f"{key}.limit: {exemption.limit:g} is no slow-down to accept. Give the largest one "
            "that may pass, as 0.08 for 8 % slower."
        )
    if not exemption.reason.strip():
        raise ConfigError(f"{key}.reason: empty. Say why this is accepted; whoever meets it asks.")
    try:
        date.fromisoformat(exemption.until)
    except ValueError:
        raise ConfigError(
            f"{key}.until: {exemption.until!r} is no day. Write the last day it holds as "
            "2026-12-31."
        ) from None
    return exemption


def has_expired(exemption: Exemption, today: date) -> bool:
    """Its last day is over."""
    return date.fromisoformat(exemption.until) < today


def exemption_of(
    case_id: str, change: float, exemptions: Sequence[Exemption], today: date
) -> tuple[Exemption | None, str]:
    """The exemption that lets this regression pass, and what there is to say of those that do not.

    Args:
        case_id: of the case that regressed.
        change: by how much, as 0.08 for 8 % slower.
        exemptions: all there are.
        today: the day that expiry is asked of.
    """
    naming = [one for one in exemptions if matches(one.case_id, case_id)]
    holding = [one for one in naming if not has_expired(one, today)]
    wide = [one for one in holding if change <= one.limit]
    if wide:
        return max(wide, key=lambda one: (one.limit, one.until)), ""
    told = [
        f"the one until {one.until} has expired ({one.reason.rstrip('.')})"
        for one in naming
        if has_expired(one, today)
    ]
    told += [f"the one until {one.until} goes to {percent(one.limit)}" for one in holding]
    return None, f"No exemption covers it: {'; '.join(told)}." if told else ""


def exemptions_text(file: ExemptionsFile) -> str:
    """What is written into the file."""
    return to_json(file) + "\n"


def read_exemptions(path: Path) -> ExemptionsFile:
    """The exemptions in that file; none where there is no such file.

    Raises:
        RecordError: when it cannot be read; NewerRecordError when a newer chipscale wrote it.
    """
    file = read_versioned(
        path,
        ExemptionsFile,
        EXEMPTIONS_SCHEMA_VERSION,
        "Mend it or take it from version control.",
    )
    for index, exemption in enumerate(file.exemptions):
        try:
            checked(exemption, f"{path}: exemptions[{index}]")
        except ConfigError as error:
            raise RecordError(str(error)) from None
    return file
