"""The numbers of the regression gate."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """How much is measured, and how much difference is none."""

    rounds: int = 5
    """Pairs of fresh processes; as many again confirm what they flag."""
    tolerance: float = 0.03
    """A change that is none. With 5 pairs and confirmation, 3 % gave no false alarm in 70 suites
    of 12 cases on a shared machine, and found 99 % of the changes by 10 %."""
    short_s: float = 20e-6
    """Cases shorter than this have the tolerance below: a launch moves them by as much."""
    short_tolerance: float = 0.05
    absolute_floor_s: float = 0.5e-6
    """A change by less than this is none, whatever share it is."""
    timer_steps: float = 2.0
    """Nor is one by less than so many steps of the timer."""
    max_floor: float = 0.10
    """A machine that differs from itself by more than this cannot judge a case: it is NOISY."""
    common_share: float = 0.6
    """Where more cases than this share move together, the whole suite has shifted."""
    common_min_cases: int = 10
