"""What a measuring child process tells its supervisor: one JSON object per line."""

from dataclasses import dataclass
from enum import StrEnum

from harness.environment import Environment
from harness.proof import Proof
from harness.record import Record

POISONED_EXIT_CODE = 75
"""The device context is unusable after this case; a fresh process goes on (EX_TEMPFAIL)."""


class Stage(StrEnum):
    """Where a case is."""

    PREPARE = "prepare"
    CHECK = "check"
    MEASURE = "measure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One of its fields is set."""

    environment: Environment | None = None
    """The child is up and has opened its device."""
    proof: Proof | None = None
    """What its timer, launch and flush are worth."""
    started_case: int | None = None
    """Index in the job of the case that begins now."""
    stage: Stage | None = None
    record: Record | None = None
    """The case that began last is over."""
    refusal: str | None = None
    """The user's mistake that stops everything: no such device."""
