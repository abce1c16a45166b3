"""How much the slowest of many chips is slower than the mean.

    E[max of n] = mean (1 + s z_n)              z_n of n normal numbers, s their spread

The step's jitter is a measured growth with the number of chips and holds both of the causes here.
They say what it would be made of, and what a cluster pays whose chips differ more than those of
the measured series.

Source: Blom, Statistical Estimates and Transformed Beta-Variables (1958), for the expected maximum.
"""

import math

from scipy.special import ndtr, ndtri

from harness.extrapolate.cluster import Stragglers


def expected_maximum(count: int) -> float:
    """Expected maximum of so many standard normal numbers; within 5 % of the exact one."""
    if count <= 1:
        return 0.0
    return float(ndtri((count - 0.375) / (count + 0.25)))


def slowest_chip_excess(num_chips: int, spread: float, screening: float) -> float:
    """How much slower than the mean the slowest chip is, chips beyond the threshold taken out.

    The quantile of the expected maximum, of a normal distribution cut at `screening`.
    """
    if spread == 0 or num_chips <= 1:
        return 0.0
    kept = float(ndtr(screening / spread))
    quantile = (num_chips - 0.375) / (num_chips + 0.25)
    return max(0.0, min(screening, spread * float(ndtri(quantile * kept))))


def barrier_excess(num_ranks: int, jitter: float, rounds: int = 1) -> float:
    """What ranks lose at a barrier, as a share of the time since the last one.

    `rounds` independent pieces of work between two barriers average out.
    """
    return jitter / math.sqrt(rounds) * expected_maximum(num_ranks)


def straggler_share(stragglers: Stragglers, num_chips: int, num_chips_timed: int) -> float:
    """Busy time lost to the slowest of the chips, beyond what `num_chips_timed` of them lose.

    Times are calibrated on runs of whole scale-up domains, so the slowest of one is in them.
    """

    def excess(count: int) -> float:
        slowest = slowest_chip_excess(count, stragglers.chip_spread, stragglers.screening)
        return slowest + barrier_excess(count, stragglers.barrier_jitter)

    return max(0.0, excess(num_chips) - excess(min(num_chips, num_chips_timed)))
