"""What failures, restarts, checkpoints, stalls and missing hosts leave of the wall time.

Daly's model, with N chips that fail every M = M1 / N on average:

    tau = sqrt(2 d M) (1 + sqrt(d/2M)/3 + (d/2M)/9) - d     work between checkpoints of d each
    T   = Ts (M/tau) e^(R/M) (e^((tau + d)/M) - 1)          wall time of Ts seconds of work

Refined by what is known of a cluster. A failure is noticed after D. Then a try to come back takes
R (replacing, starting, loading), is itself interrupted by the next failure, and a share q of the
tries fails anyway, so that a failure costs

    R' = (D + M (1 - e^(-R/M))) / s        s = (1 - q) e^(-R/M), a try's chance

which is Daly's R for D = q = 0. A checkpoint that is written behind the step counts only once it is
whole, W later: each failure loses W of work more, and tau is at least W. With f failures for each
tau, f = e^((tau + d)/M) - 1,

    T = (Ts/tau) (f (M + W) (1 + x) + f R') / (1 - P)

where x is what rare stalls add to each second of running, N l D_s while they are rare, and P the
share of the time in which fewer hosts are whole than the job needs: failed hosts come back after
the time to repair, so those that are away are Poisson with the mean N h MTTR, whatever the
distribution of the repairs, and P is the chance that they are more than the spares.

Where the job is elastic, a failed replica leaves and the others go on: a failure costs all chips
the reconfiguration, twice, and half a step, and one of d replicas for R.

Source: Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future
Generation Computer Systems 22 (2006), equations 20 and 37; Kokolis et al. (HPCA 2025, arXiv
2410.21680) for the first order with detection and restart; the insensitivity of M/G/infinity
queues (Palm 1938) for the spares.
"""

import math
from dataclasses import dataclass

from harness.extrapolate.cluster import ClusterSpec, Reliability, Storage
from harness.extrapolate.spares import hosts_of
from harness.projection import Goodput
from harness.units import SECONDS_PER_HOUR

LARGEST_EXPONENT = 700.0
"""Of e in double precision; more failures than that per interval leave nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint costs."""

    blocking_s: float
    """Nothing trains."""
    behind_s: float
    """Written while training goes on; until then it does not count."""
    load_s: float


def interruption_interval_s(reliability: Reliability, num_chips: int) -> float:
    """Mean time between interruptions of a job on so many chips."""
    return SECONDS_PER_HOUR / (reliability.failures_per_chip_hour * num_chips)


def checkpoint_interval_s(interruption_s: float, checkpoint_s: float) -> float:
    """Work between two checkpoints that wastes least."""
    if checkpoint_s >= 2 * interruption_s:
        return interruption_s
    ratio = checkpoint_s / (2 * interruption_s)
    young = math.sqrt(2 * checkpoint_s * interruption_s)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_s


def wall_time_s(
    *,
    work_s: float,
    interval_s: float,
    interruption_s: float,
    checkpoint_s: float,
    restart_s: float,
) -> float:
    """Daly's expected wall time of so much work, infinite where it never ends."""
    exponent = (interval_s + checkpoint_s) / interruption_s
    if max(exponent, restart_s / interruption_s) > LARGEST_EXPONENT:
        return math.inf
    segments = work_s / interval_s
    again = math.exp(restart_s / interruption_s) * math.expm1(exponent)
    return segments * interruption_s * again


def daly_share(interruption_s: float, checkpoint_s: float, restart_s: float) -> float:
    """Share of wall time that is work, at the best interval and without any refinement."""
    interval_s = checkpoint_interval_s(interruption_s, checkpoint_s)
    return interval_s / wall_time_s(
        work_s=interval_s,
        interval_s=interval_s,
        interruption_s=interruption_s,
        checkpoint_s=checkpoint_s,
        restart_s=restart_s,
    )


def goodput_share(reliability: Reliability, num_chips: int) -> float:
    """Daly's share of a job of which neither model, storage nor spare hosts are known."""
    restart_s = reliability.detection_s + reliability.replacement_s + reliability.restart_s
    mean_s = interruption_interval_s(reliability, num_chips)
    return daly_share(mean_s, reliability.checkpoint_s, restart_s)


def checkpoint(
    reliability: Reliability, storage: Storage | None, state_bytes: float, num_chips: int
) -> Checkpoint:
    """The cost of a checkpoint of so many bytes, each chip writing its share of them.

    Source: all chips write equal parts whatever the plan, as PyTorch's distributed checkpoints
    and Megatron-LM's fully parallel saving do.
    """
    if storage is None:
        return Checkpoint(blocking_s=reliability.checkpoint_s, behind_s=0.0, load_s=0.0)
    share = state_bytes / num_chips
    written_s = share / storage.write_bytes_per_s_per_chip
    load_s = share / storage.read_bytes_per_s_per_chip
    if not storage.is_asynchronous:
        blocking_s = storage.overhead_s + written_s
        return Checkpoint(blocking_s=blocking_s, behind_s=0.0, load_s=load_s)
    copied_s = share / storage.host_copy_bytes_per_s_per_chip
    return Checkpoint(blocking_s=storage.overhead_s + copied_s, behind_s=written_s, load_s=load_s)


def recovery_s(reliability: Reliability, interruption_s: float, load_s: float = 0.0) -> float:
    """Expected time from a failure to the first new step; infinite where it never comes."""
    try_s = reliability.replacement_s + reliability.restart_s + load_s
    if try_s / interruption_s > LARGEST_EXPONENT:
        return math.inf
    chance = (1 - reliability.restart_failure_share) * math.exp(-try_s / interruption_s)
    spent_s = -interruption_s * math.expm1(-try_s / interruption_s)
    return (reliability.detection_s + spent_s) / chance


def stall_share(
    num_chips: int, stalls_per_chip_hour: float, stall_s: float, step_s: float
) -> float:
    """What rare stalls of single chips add to each second of running.

    All chips wait for the one: N l D while N l t is small. Stalls of one step overlap, so a step
    is held up at most once, D/t.
    """
    per_step = num_chips * stalls_per_chip_hour / SECONDS_PER_HOUR * step_s
    return -math.expm1(-per_step) * stall_s / step_s


def goodput(
    cluster: ClusterSpec,
    *,
    num_chips: int,
    state_bytes: float,
    step_s: float,
    num_replicas: int,
    idle_chips: int = 0,
) -> Goodput:
    """What is left of the wall time of a job on `num_chips`, and what took the rest.

    `state_bytes` is what a checkpoint holds, of the whole model. Hosts whose chips the plan leaves
    idle are spares as well.
    """
    reliability = cluster.reliability
    mean_s = interruption_interval_s(reliability, num_chips)
    cost = checkpoint(reliability, cluster.storage, state_bytes, num_chips)
    interval_s = max(checkpoint_interval_s(mean_s, cost.blocking_s), cost.behind_s)
    stalls = 0.0
    if cluster.stragglers is not None:
        rare = cluster.stragglers
        stalls = stall_share(num_chips, rare.stalls_per_chip_hour, rare.stall_s, step_s)
    hosts = hosts_of(cluster, num_chips, idle_chips)
    if reliability.is_elastic:
        losses = _elastic(
            reliability, cost, mean_s, interval_s, stalls, step_s, num_replicas, hosts.missing
        )
        recovered_s = reliability.detection_s + 2 * reliability.reconfiguration_s
    else:
        losses = _restarting(reliability, cost, mean_s, interval_s, stalls, hosts.shortage)
        recovered_s = recovery_s(reliability, mean_s, cost.load_s)
    share = losses.pop("training")
    return Goodput(
        share=share,
        losses=tuple((name, lost) for name, lost in losses.items() if lost > 0),
        interruption_s=mean_s,
        checkpoint_interval_s=interval_s,
        checkpoint_s=cost.blocking_s,
        checkpoint_behind_s=cost.behind_s,
        recovery_s=recovered_s,
        is_elastic=reliability.is_elastic,
        hosts_in_repair=hosts.in_repair,
        spare_hosts=hosts.spares,
        spare_hosts_needed=hosts.needed,
        shortage_share=hosts.shortage,
    )


def _restarting(
    reliability: Reliability,
    cost: Checkpoint,
    mean_s: float,
    interval_s: float,
    stalls: float,
    beyond: float,
) -> dict[str, float]:
    """Shares of the wall time of a job that goes back to its last checkpoint."""
    exponent = (interval_s + cost.blocking_s) / mean_s
    back_s = recovery_s(reliability, mean_s, cost.load_s)
    if exponent > LARGEST_EXPONENT or math.isinf(back_s):
        return {"training": 0.0, "coming back from failures": 1.0}
    failures = math.expm1(exponent)
    running_s = failures * (mean_s + cost.behind_s)
    total_s = (running_s * (1 + stalls) + failures * back_s) / (1 - beyond) if beyond < 1 else 0.0
    if total_s == 0.0:
        return {"training": 0.0, "waiting for spare hosts": 1.0}
    return {
        "training": interval_s / total_s,
        "checkpoints": cost.blocking_s / total_s,
        "work done again": (running_s - interval_s - cost.blocking_s) / total_s,
        "coming back from failures": failures * back_s / total_s,
        "rare stalls": running_s * stalls / total_s,
        "waiting for spare hosts": beyond,
    }


def _elastic(
    reliability: Reliability,
    cost: Checkpoint,
    mean_s: float,
    interval_s: float,
    stalls: float,
    step_s: float,
    num_replicas: int,
    missing_hosts: float,
) -> dict[str, float]:
    """Shares of the wall time of a job whose replicas come and go; a missing host takes one."""
    stopped_s = reliability.detection_s + 2 * reliability.reconfiguration_s
    away_s = reliability.replacement_s + reliability.restart_s + cost.load_s
    replicas = max(1, num_replicas)
    written = cost.blocking_s / interval_s
    # Per second of training: failures come on the clock, so what they cost is a share of it.
    lost = min(1.0, (stopped_s + step_s / 2) / mean_s)
    again = step_s / 2 / (stopped_s + step_s / 2)
    absent = min(1.0, away_s / mean_s / replicas + missing_hosts / replicas)
    running = (1 - lost) * (1 - absent)
    training = running / (1 + written + stalls)
    return {
        "training": training,
        "checkpoints": training * written,
        "work done again": lost * again,
        "coming back from failures": lost * (1 - again),
        "rare stalls": training * stalls,
        "replicas that are away": (1 - lost) * absent,
    }
