"""Hosts that are in repair, and the spare ones that stand in for them.

Failed hosts come back after the time to repair, so those that are away are Poisson with the mean
N h MTTR, whatever the distribution of the repairs.

Source: the insensitivity of M/G/infinity queues (Palm 1938).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.special import ndtr, ndtri, pdtr, pdtrik

from harness.extrapolate.cluster import ClusterSpec

SPARE_CONFIDENCE = 0.999
"""Share of the time for which the spares that are told must do; assumed."""
NORMAL_FROM = 1e4
"""Poisson numbers of a larger mean are taken as normal, which is within 1 % of their width."""
Number = TypeVar("Number", int, float)


def hosts_in_repair(cluster: ClusterSpec, num_chips: int) -> float | None:
    """Mean number of failed hosts that are not back yet."""
    reliability = cluster.reliability
    if reliability.repair_hours is None:
        return None
    return num_chips * reliability.repairs_per_chip_hour * reliability.repair_hours


def spares_needed(mean_in_repair: float, confidence: float = SPARE_CONFIDENCE) -> int:
    """Spare hosts that do for that share of the time: the quantile of a Poisson number."""
    if mean_in_repair == 0:
        return 0
    if mean_in_repair > NORMAL_FROM:
        return math.ceil(mean_in_repair + float(ndtri(confidence)) * math.sqrt(mean_in_repair))
    found = max(0, math.floor(float(pdtrik(confidence, mean_in_repair))))
    while float(pdtr(found, mean_in_repair)) < confidence:
        found += 1
    return found


def spare_hosts(cluster: ClusterSpec, num_chips: int) -> int | None:
    """Hosts that wait for one of those to fail; None where spares are not modelled."""
    if cluster.spare_hosts is not None or cluster.spare_confidence is None:
        return cluster.spare_hosts
    in_repair = hosts_in_repair(cluster, num_chips)
    return None if in_repair is None else spares_needed(in_repair, cluster.spare_confidence)


def shortage(mean_in_repair: float, spares: int) -> tuple[float, float]:
    """The chance that more hosts are away than there are spares, and how many more on average.

    E[(X - S)+] of a Poisson X is mean P(X >= S) - S P(X > S).
    """
    if mean_in_repair == 0:
        return 0.0, 0.0
    if mean_in_repair > NORMAL_FROM:
        width = math.sqrt(mean_in_repair)
        short = (mean_in_repair - spares) / width
        density = math.exp(-short * short / 2) / math.sqrt(2 * math.pi)
        beyond = float(ndtr(short))
        return beyond, max(0.0, width * (density + short * beyond))
    beyond = 1 - float(pdtr(spares, mean_in_repair))
    least = 1 - float(pdtr(spares - 1, mean_in_repair)) if spares else 1.0
    return beyond, max(0.0, mean_in_repair * least - spares * beyond)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Hosts that are away and those that stand in for them; None where that is not modelled."""

    in_repair: float | None = None
    spares: int | None = None
    needed: int | None = None
    shortage: float = 0.0
    missing: float = 0.0


def hosts_of(cluster: ClusterSpec, num_chips: int, idle_chips: int) -> Hosts:
    """Of one kind of host, or of all islands, whose spares do not stand in for each other."""
    if cluster.islands:
        used = num_chips / cluster.num_chips
        each = [hosts_of(one, round(used * one.num_chips), 0) for one in cluster.islands]
        return Hosts(
            in_repair=_total([one.in_repair for one in each]),
            spares=_total([one.spares for one in each]),
            needed=_total([one.needed for one in each]),
            shortage=1 - math.prod(1 - one.shortage for one in each),
            missing=math.fsum(one.missing for one in each),
        )
    in_repair = hosts_in_repair(cluster, num_chips)
    if in_repair is None:
        return Hosts()
    needed = spares_needed(in_repair)
    waiting = spare_hosts(cluster, num_chips)
    if waiting is None:
        return Hosts(in_repair=in_repair, needed=needed)
    spares = waiting + idle_chips // cluster.chips_per_host
    beyond, missing = shortage(in_repair, spares)
    return Hosts(
        in_repair=in_repair, spares=spares, needed=needed, shortage=beyond, missing=missing
    )


def _total(values: Sequence[Number | None]) -> Number | None:
    """The sum, or None where one is not known."""
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if len(known) == len(values) else None
