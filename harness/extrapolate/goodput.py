"""What failures, restarts and checkpoints leave of the time.

    M = M1 / N                                          time between interruptions of N chips
    tau = sqrt(2 d M) (1 + sqrt(d/2M)/3 + (d/2M)/9) - d     Daly's interval, d one checkpoint
    T = Ts (M/tau) e^(R/M) (e^((tau + d)/M) - 1)            wall time of Ts seconds of work

Source: Daly, A higher order estimate of the optimum checkpoint interval for restart dumps,
Future Generation Computer Systems 22 (2006), equations 20 and 37.
"""

import math

from harness.extrapolate.cluster import Reliability

SECONDS_PER_HOUR = 3600.0


def interruption_interval_s(reliability: Reliability, num_chips: int) -> float:
    """Mean time between interruptions of a job on so many chips."""
    return reliability.mtbf_hours_per_chip * SECONDS_PER_HOUR / num_chips


def checkpoint_interval_s(interruption_s: float, checkpoint_s: float) -> float:
    """Work between two checkpoints that wastes least."""
    if checkpoint_s >= 2 * interruption_s:
        return interruption_s
    ratio = checkpoint_s / (2 * interruption_s)
    young = math.sqrt(2 * checkpoint_s * interruption_s)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def goodput_share(reliability: Reliability, num_chips: int) -> float:
    """Share of wall time that is training, at the best checkpoint interval."""
    mean_s = interruption_interval_s(reliability, num_chips)
    delta_s = reliability.checkpoint_s
    tau_s = checkpoint_interval_s(mean_s, delta_s)
    exponent = (tau_s + delta_s) / mean_s
    if exponent > 700 or reliability.restart_s / mean_s > 700:
        return 0.0
    wall = (mean_s / tau_s) * math.exp(reliability.restart_s / mean_s) * math.expm1(exponent)
    return 1 / wall
