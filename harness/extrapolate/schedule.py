"""Schedules of a pipeline as data: what each costs in idle time and memory, and where it is legal.

A plan has a schedule by name; many plans in arrays have codes, the places in SCHEDULES.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from harness.extrapolate import filling
from harness.extrapolate.filling import Filling, Numbers


class ScheduleName(StrEnum):
    """What a plan calls its schedule."""

    GPIPE = "gpipe"
    ONE_FORWARD_ONE_BACKWARD = "1f1b"
    INTERLEAVED = "interleaved"
    ZB_H1 = "zb_h1"
    ZB_H2 = "zb_h2"
    ZBV = "zbv"
    DUALPIPE = "dualpipe"
    DUALPIPE_V = "dualpipe_v"


class Placement(StrEnum):
    """Which stages of the model a device has, counted along the model."""

    IN_TURN = "in turn"
    """Device i has the stages i, i + p, i + 2 p ..."""
    THERE_AND_BACK = "there and back"
    """Device i has the stages i and 2 p - 1 - i, so the first device has both ends."""
    BOTH_WAYS = "both ways"
    """Device i has the stages i and p - 1 - i of p, each of which is on two devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One schedule."""

    name: ScheduleName
    title: str
    """As papers write it."""
    idle_s: Callable[[Filling], Numbers]
    """Idle time of the slowest device."""
    held: Callable[[Numbers, Numbers, Numbers, Numbers], Numbers]
    """Of p, v, m and a device's position: microbatches whose activations it holds at once, times
    the share of its layers that they have passed. A microbatch counts until its weight gradients
    are done, though what those need is less than what the forward kept."""
    messages: Callable[[Numbers, Numbers, Numbers], Numbers]
    """Of p, v and m: how many messages between stages a step waits for, where each is shorter than
    a pass and F = B = W; two more or less than the simulation has."""
    placement: Placement = Placement.IN_TURN
    least_chunks: int = 1
    most_chunks: int | None = 1
    """None is any number."""
    least_pipeline: int = 1
    needs_even: bool = False
    """Devices and microbatches come in pairs."""
    microbatches_per_device: int = 0
    """There are at least so many times p."""
    parameter_copies: int = 1
    """Devices that hold the same stage."""
    hides_expert_exchange: bool = False
    """A forward runs beside a backward of another microbatch, so that the all-to-all of experts of
    one hides behind the computation of the other."""
    is_skewed: bool = False
    """Devices end their steps in the order in which they begin them. The idle time is that of a
    device's own span, which a step takes only if no device waits for all others before its
    optimizer; with such a barrier, as for the norm of all gradients, up to (p - 1) F is added."""
    source: str

    def fault(self, *, pipeline: int, virtual_stages: int, num_microbatches: int) -> str:
        """Why a plan cannot have this schedule, with the nearest that can; empty if it can."""
        p, v, m = pipeline, virtual_stages, num_microbatches
        if p < self.least_pipeline:
            return (
                f"{self.name} orders the work of {self.least_pipeline} stages or more, not {p}. "
                f"Set parallel.pipeline={self.least_pipeline} or more"
            )
        if self.needs_even and p % 2:
            return f"{self.name} needs an even pipeline, not {p}. Set parallel.pipeline={p + 1}"
        if v < self.least_chunks:
            return (
                f"{self.name} needs {self.least_chunks} virtual stages per chip"
                f"{' or more' if self.most_chunks is None else ''}, not {v}. "
                f"Set parallel.virtual_stages={self.least_chunks}"
            )
        if self.most_chunks is not None and v > self.most_chunks:
            other = " or parallel.schedule=interleaved" if self.name == "1f1b" else ""
            return (
                f"{self.name} has {self.most_chunks} virtual stages per chip, not {v}. "
                f"Set parallel.virtual_stages={self.most_chunks}{other}"
            )
        least = self.microbatches_per_device * p
        if m < least or (self.needs_even and m % 2):
            nearest = max(least, m + m % 2 if self.needs_even else m)
            even = "an even number of at least" if self.needs_even else "at least"
            return (
                f"{self.name} over {p} stages needs {even} {least} microbatches, not {m}. Set "
                "parallel.global_batch_tokens, parallel.data or parallel.microbatch_size to have "
                f"{nearest}"
            )
        return ""


SCHEDULES: tuple[Schedule, ...] = (
    Schedule(
        name=ScheduleName.GPIPE,
        title="GPipe",
        idle_s=filling.idle_in_turn,
        held=filling.held_all,
        messages=filling.messages_all_forward,
        source="Huang et al., GPipe (NeurIPS 2019, arXiv 1811.06965) section 2.3",
    ),
    Schedule(
        name=ScheduleName.ONE_FORWARD_ONE_BACKWARD,
        title="1F1B",
        idle_s=filling.idle_in_turn,
        held=filling.held_in_turn,
        messages=filling.messages_in_turn,
        source=(
            "Narayanan et al. (SC21, arXiv 2104.04473) section 2.2: (p - 1)/m of the ideal time; "
            "in flight: Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4.2"
        ),
    ),
    Schedule(
        name=ScheduleName.INTERLEAVED,
        title="interleaved 1F1B",
        idle_s=filling.idle_in_turn,
        held=filling.held_in_turn,
        messages=filling.messages_in_turn,
        least_chunks=2,
        most_chunks=None,
        least_pipeline=2,
        source=(
            "Narayanan et al. (SC21, arXiv 2104.04473) section 2.2: (p - 1)/(v m); rounds of any "
            "length: Llama 3 (arXiv 2407.21783) section 3.3.2; in flight: Korthikanti et al. "
            "(MLSys 2023, arXiv 2205.05198) section 4.2, L (1 + (p - 1)/(p v)) layers on the "
            "first stage; the others as in Megatron-LM, core/pipeline_parallel/schedules.py"
        ),
    ),
    Schedule(
        name=ScheduleName.ZB_H1,
        title="ZB-H1",
        idle_s=filling.idle_h1,
        held=filling.held_h1,
        messages=filling.messages_h1,
        least_pipeline=2,
        source="Qi et al. (ICLR 2024, arXiv 2401.10241) table 2: (p - 1)(F + B - W), p in flight",
    ),
    Schedule(
        name=ScheduleName.ZB_H2,
        title="ZB-H2",
        idle_s=filling.idle_h2,
        held=filling.held_h2,
        messages=filling.messages_all_forward,
        least_pipeline=2,
        is_skewed=True,
        source=(
            "Qi et al. (ICLR 2024, arXiv 2401.10241) table 2: (p - 1)(F + B - 2 W), "
            "2 p - 1 in flight; its automatic form is called ZB-2p"
        ),
    ),
    Schedule(
        name=ScheduleName.ZBV,
        title="ZB-V",
        idle_s=filling.idle_v,
        held=filling.held_v,
        messages=filling.messages_v,
        placement=Placement.THERE_AND_BACK,
        least_chunks=2,
        most_chunks=2,
        least_pipeline=2,
        is_skewed=True,
        source=(
            "Qi et al. (arXiv 2401.10241) section 6: none where F = B = W, p in flight; other "
            "times from the order of work in PyTorch, torch/distributed/pipelining/schedules.py"
        ),
    ),
    Schedule(
        name=ScheduleName.DUALPIPE,
        title="DualPipe",
        idle_s=filling.idle_dual,
        held=filling.held_dual,
        messages=filling.messages_dual,
        placement=Placement.BOTH_WAYS,
        least_pipeline=2,
        needs_even=True,
        microbatches_per_device=2,
        parameter_copies=2,
        hides_expert_exchange=True,
        source=(
            "DeepSeek-V3 (arXiv 2412.19437) section 3.2.1, table 2: (p/2 - 1)(F&B + B - 3 W) with "
            "B the whole backward, 2 copies of the parameters, p + 1 in flight"
        ),
    ),
    Schedule(
        name=ScheduleName.DUALPIPE_V,
        title="DualPipeV",
        idle_s=filling.idle_dual_v,
        held=filling.held_dual_v,
        messages=filling.messages_plain,
        placement=Placement.THERE_AND_BACK,
        least_chunks=2,
        most_chunks=2,
        least_pipeline=2,
        microbatches_per_device=2,
        hides_expert_exchange=True,
        source="deepseek-ai/DualPipe, README.md: DualPipe on half the devices, without the copy",
    ),
)
"""In the order of their codes: the code of a schedule in an array is its index here."""

NAMES: tuple[str, ...] = tuple(str(schedule.name) for schedule in SCHEDULES)
_CODES = {name: code for code, name in enumerate(NAMES)}


def schedule_code(name: str) -> int:
    """The code that stands for a schedule in arrays."""
    return _CODES[name]


def schedule_of(name: str, virtual_stages: int = 1) -> Schedule:
    """The schedule of a plan; 1F1B with several chunks per device is the interleaved one."""
    if name == ScheduleName.ONE_FORWARD_ONE_BACKWARD and virtual_stages > 1:
        name = ScheduleName.INTERLEAVED
    return SCHEDULES[_CODES[name]]


def idle_s(
    codes: npt.ArrayLike,
    *,
    pipeline: npt.ArrayLike,
    virtual_stages: npt.ArrayLike,
    num_microbatches: npt.ArrayLike,
    slowest_s: npt.ArrayLike,
    sum_s: npt.ArrayLike,
    forward_share: npt.ArrayLike = 1 / 3,
    weight_share: npt.ArrayLike = 1 / 3,
) -> npt.NDArray[np.float64]:
    """Idle time of the slowest device, in seconds, of many plans at once; all arrays broadcast.

    `slowest_s` and `sum_s` are one microbatch forward and backward on the slowest device and on
    all of them. Where a schedule is not legal the number means nothing.
    """
    slowest = np.asarray(slowest_s, float)
    p = np.asarray(pipeline, float)
    at = Filling(
        pipeline=p,
        virtual_stages=np.asarray(virtual_stages, float),
        num_microbatches=np.asarray(num_microbatches, float),
        slowest_s=slowest,
        others_s=np.asarray(sum_s, float) - slowest,
        forward=np.asarray(forward_share, float),
        weight=np.asarray(weight_share, float),
    )
    return np.where(p > 1, _chosen(codes, lambda schedule: schedule.idle_s(at)), 0.0)


def microbatches_held(
    codes: npt.ArrayLike,
    *,
    pipeline: npt.ArrayLike,
    virtual_stages: npt.ArrayLike,
    num_microbatches: npt.ArrayLike,
    position: npt.ArrayLike = 0,
) -> npt.NDArray[np.float64]:
    """Microbatches whose activations a device holds at once, of many plans; all arrays broadcast.

    In units of all layers of the device; of one of its two stages where it has a stage and its
    mirror image (DualPipe).
    """
    given = (pipeline, virtual_stages, num_microbatches, position)
    p, v, m, place = (np.asarray(part, float) for part in given)
    return _chosen(codes, lambda schedule: schedule.held(p, v, m, place))


def messages_waited(
    codes: npt.ArrayLike,
    *,
    pipeline: npt.ArrayLike,
    virtual_stages: npt.ArrayLike,
    num_microbatches: npt.ArrayLike,
) -> npt.NDArray[np.float64]:
    """Messages between stages that a step waits for, of many plans at once; all arrays broadcast.

    They are sent while their devices work on; one shorter than a pass is waited for only where the
    next device has nothing else to do.
    """
    p, v, m = (np.asarray(part, float) for part in (pipeline, virtual_stages, num_microbatches))
    return np.where(p > 1, _chosen(codes, lambda schedule: schedule.messages(p, v, m)), 0.0)


def _chosen(codes: npt.ArrayLike, of: Callable[[Schedule], Numbers]) -> npt.NDArray[np.float64]:
    """The formula of each plan's own schedule; only those that occur are evaluated."""
    code = np.asarray(codes)
    first, *others = np.unique(code)
    found = np.asarray(of(SCHEDULES[first]))
    for other in others:
        found = np.where(code == other, of(SCHEDULES[other]), found)
    return found
