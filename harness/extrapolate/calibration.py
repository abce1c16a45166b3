"""Calibration: the constants that published runs gave, and how far off runs then still are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.extrapolate.constants import (
    NAMES,
    PRIOR,
    SCOPES,
    SPREADS,
    Constants,
    Scope,
    architecture,
    subject,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A constant of one subject, and the ratio that its 90 % interval reaches either way."""

    value: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far published step times are from predicted ones: P10 and P90 of their ratio."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutError:
    """How far off runs are that took no part in the calibration, as shares of the published step.

    All of one source, model and chip are left out at once.
    """

    num_runs: int
    median: float
    """Of the absolute errors."""
    mean: float
    """Of the absolute errors."""
    bias: float


UNCALIBRATED = Residual(low=0.80, high=1.55)
"""Of software that no run calibrated; the runs of sources left out in turn, see
`docs/validation.md`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Constants by name and subject, residuals by software and kind of model."""

    values: Mapping[tuple[str, str], Calibrated]
    residuals: Mapping[tuple[str, str], Residual]
    """By software generation and `dense` or `experts`."""

    def constants(self, chip: str, software: str) -> Constants:
        """The constants of a chip under a software generation; priors where none is known."""
        found = {}
        for name in NAMES:
            known = self.values.get((name, subject(name, chip, software)))
            if known is not None:
                found[name] = known.value
        return replace(PRIOR, **found)

    def spreads(self, chip: str, software: str) -> dict[str, float]:
        """The 90 % ratio of each constant; that of a prior where the software ran elsewhere."""
        found, is_its = {}, self.ran_on(software, chip)
        for name in NAMES:
            known = self.values.get((name, subject(name, chip, software)))
            is_own = SCOPES[name] in (Scope.ALL, Scope.CHIP) or is_its
            found[name] = known.spread if known is not None and is_own else SPREADS[name]
        return found

    def ran_on(self, software: str, chip: str) -> bool:
        """Runs of that software on the chip, or on one of its architecture, took part."""
        key = ("attention_forward_share", f"{software} {architecture(chip)}")
        return self.knows(chip) and key in self.values

    def software_of(self, chip: str) -> str:
        """The current software of a chip: the newest that runs on it calibrate, else the newest."""
        return next((one for one in CURRENT if self.ran_on(one, chip)), CURRENT[0])

    def is_calibrated(self, software: str, has_experts: bool) -> bool:
        """Runs of that software and kind of model took part."""
        return (software, _kind(has_experts)) in self.residuals

    def knows(self, chip: str) -> bool:
        """Runs on that chip took part."""
        return ("matrix_share", chip) in self.values or ("matrix_share_8bit", chip) in self.values

    def residual(self, software: str, has_experts: bool) -> Residual:
        """What is left between published and predicted step times of that kind of run.

        Of software without such runs it is that of the kind under all software together.
        """
        kind = _kind(has_experts)
        pooled = self.residuals.get((ALL_SOFTWARE, kind), UNCALIBRATED)
        return self.residuals.get((software, kind), pooled)


def _kind(has_experts: bool) -> str:
    return "experts" if has_experts else "dense"


CURRENT = (
    "megatron_bridge_2026_06",
    "megatron_bridge_2026_02",
    "nemo_2025",
    "maxtext",
    "torchtitan",
)
"""Generations of software that train today, the newest of each framework first."""
AUTO = "auto"
"""In place of a generation: the chip's current one."""
ALL_SOFTWARE = "all"
"""In place of a generation: every one together."""
ALL_KINDS = "dense and experts"
"""In place of a kind of model: both together."""


NONE = Calibration(values={}, residuals={})
"""No published run: every constant is its prior."""
