"""What the gate's benchmark found, as data, and which of its goals were missed."""

from dataclasses import dataclass

from harness.gate.policy import GatePolicy
from harness.units import significant
from tests.benchmarks.gate_rates import ErrorRates, Share
from tests.benchmarks.gate_simulated import SimulatedSuites

MIN_SUITES = 70
"""With fewer, no false alarm says little."""
MIN_POWER = 0.95
LEVEL_HERE, LEVEL_SIMULATED = 0.10, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Realized:
    """What a slow-down that was built in came to."""

    level: float
    median: float
    """Of all cases and processes, against the same case in the same process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What was measured, and where."""

    processor: str
    num_cores: int
    num_suites: int
    num_power_suites: int
    num_cases: int
    median_load: float
    """Running programs of the host before a pair of processes."""
    deviation: float
    """Robust standard deviation of the A/A estimates of all cases and suites."""
    pair_s: float
    """Median time of a pair of processes."""
    realized: tuple[Realized, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRates:
    """What the benchmark found."""

    policy: GatePolicy
    num_simulated: int
    simulation: SimulatedSuites
    simulated: tuple[ErrorRates, ...]
    stored: tuple[ErrorRates, ...]
    """The same GPU, the base measured in another session; half as many suites."""
    here: Here | None
    """None where nothing was measured."""
    measured: tuple[ErrorRates, ...] = ()
    """Slow-downs are work that was done."""
    multiplied: tuple[ErrorRates, ...] = ()
    """Slow-downs are samples multiplied, which have no noise of their own."""
    all_slower: tuple[ErrorRates, ...] = ()
    """Every case is slower: the suite has shifted."""

    @property
    def misses(self) -> tuple[str, ...]:
        """Goals that were missed, one sentence each."""
        found = _misses("simulation", self.simulated[0], LEVEL_SIMULATED)
        if self.here is not None and self.here.num_suites >= MIN_SUITES:
            found += _misses("measured", self.measured[0], LEVEL_HERE)
        return found


def _misses(where: str, rates: ErrorRates, level: float) -> tuple[str, ...]:
    found = []
    alarms = rates.alarms_per_case
    if alarms.count:
        found.append(f"{where}: {alarms.count} false alarms of {rates.rule} in {alarms.of} cases.")
    found += [
        f"{where}: {rates.rule} finds {100 * one.found.value:.1f} % of {100 * level:g} %."
        for one in rates.power
        if one.level == level and one.found.value < MIN_POWER
    ]
    return tuple(found)


def counted(share: Share) -> str:
    """`0 of 900 (< 0.41 %)`, `29 % (262 of 900)`; n/a of none."""
    if not share.of:
        return "n/a"
    if not share.count:
        return f"0 of {share.of:,} (< {significant(100 * share.high, 2)} %)"
    return f"{significant(100 * share.value, 2)} % ({share.count:,} of {share.of:,})"
