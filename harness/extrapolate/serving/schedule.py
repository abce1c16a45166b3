"""Queues, chunks and pools as formulas: numbers in, numbers out.

    wait in a queue      rho / (2 (1 - rho)) service            M/D/1
    chunks               a prompt of s tokens takes n = ceil(s / c) passes, (n + p - 1) stages
    pools                r = 1 / (1/r_p + 1/r_d) requests/s per chip, N_p/N_d = r_d/r_p

Source: Pollaczek-Khinchine for M/D/1; chunks as in Sarathi-Serve (arXiv 2403.02310); pools as in
DistServe (arXiv 2401.09670) section 4.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def waiting_s(service_s: Floats, utilization: Floats) -> Floats:
    """Mean wait before a server that needs `service_s` for each and is busy for that share."""
    idle = np.maximum(1e-12, 1 - utilization)
    return np.where(utilization < 1, service_s * utilization / (2 * idle), np.inf)


def filling_s(service_s: Floats, utilization: Floats, num_together: Floats) -> Floats:
    """Mean wait until that many have come, where the server is busy for that share."""
    return (num_together - 1) * service_s / (2 * np.maximum(1e-12, utilization) * num_together)


def joined_rate(prefill_rate: Floats, decode_rate: Floats) -> Floats:
    """Requests/s per chip of two pools in balance, from those that each pool's chips can do."""
    return 1 / (1 / prefill_rate + 1 / decode_rate)


class Split(NamedTuple):
    """Replicas of each pool, and the requests/s that both can do."""

    num_prefill: int
    num_decode: int
    requests_per_s: float


def split_chips(
    num_chips: int,
    *,
    prefill_chips: int,
    decode_chips: int,
    prefill_rate: float,
    decode_rate: float,
) -> Split:
    """The numbers of replicas that serve most; rates are requests/s of one replica.

    No replica of a pool is left out, so a cluster smaller than one of each has none.
    """
    # Whole replicas: the best split is next to the balanced one, counted in either pool.
    reads = num_chips / (prefill_chips + decode_chips * prefill_rate / decode_rate)
    writes = reads * prefill_rate / decode_rate
    pairs = []
    for count in _whole(reads):
        pairs.append((count, (num_chips - count * prefill_chips) // decode_chips))
    for count in _whole(writes):
        pairs.append(((num_chips - count * decode_chips) // prefill_chips, count))
    best = Split(0, 0, 0.0)
    for num_prefill, num_decode in pairs:
        served = min(num_prefill * prefill_rate, num_decode * decode_rate)
        if served > best.requests_per_s:
            best = Split(num_prefill, num_decode, served)
    return best


def _whole(number: float) -> tuple[int, ...]:
    """The whole numbers of at least 1 around it."""
    return tuple(max(1, int(number) + step) for step in (-1, 0, 1))


def non_dominated(across: Floats, up: Floats) -> NDArray[np.int64]:
    """Indices of the points that no other beats in both, from the left to the right."""
    order = np.lexsort((-up, -across))  # From the right; of equal ones the highest first.
    best = np.maximum.accumulate(up[order])
    is_new = np.empty(len(order), dtype=bool)
    if len(order):
        is_new[0] = True
        is_new[1:] = up[order][1:] > best[:-1]
    return order[is_new][::-1].astype(np.int64)
