"""Work order: what each device of a pipeline does, piece by piece, in each published schedule.

A model is cut into stages, numbered along it; a device has one of them, or several (chunks). An
order says for every device which pieces it works on and in which sequence, and no times: those
are found by running it (`schedule_simulator.py`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from harness.extrapolate.filling import rounds
from harness.extrapolate.schedule import Schedule, ScheduleName


class Pass(IntEnum):
    """What a piece of work does for one microbatch on one stage."""

    FORWARD = 0
    INPUT = 1
    """Backward, the gradient of the stage's input alone."""
    WEIGHT = 2
    """Backward, the gradients of its weights; at any time after INPUT."""
    BACKWARD = 3
    """Backward, both at once."""


class Piece(NamedTuple):
    """One pass of one microbatch through one stage."""

    kind: Pass
    stage: int
    """Counted along the model, from 0."""
    microbatch: int


Slot = tuple[Piece, ...]
"""What a device works on at once: one piece, or a forward beside a backward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """The slots of each device of a pipeline, in order."""

    num_stages: int
    """Of the whole model."""
    num_microbatches: int
    devices: tuple[tuple[Slot, ...], ...]


def work_order(
    schedule: Schedule, *, pipeline: int, virtual_stages: int, num_microbatches: int
) -> WorkOrder:
    """The order of work of a plan that the schedule allows (`Schedule.fault` finds none)."""
    p, v, m = pipeline, virtual_stages, num_microbatches
    rule = RULES[schedule.name]
    return WorkOrder(
        num_stages=p * v,
        num_microbatches=m,
        devices=tuple(tuple(rule(device, p, v, m)) for device in range(p)),
    )


def _all_forward(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """Every forward, then every backward.

    Source: Huang et al., GPipe (NeurIPS 2019, arXiv 1811.06965) section 2.3.
    """
    for microbatch in range(m):
        yield (Piece(Pass.FORWARD, device, microbatch),)
    for microbatch in reversed(range(m)):
        yield (Piece(Pass.BACKWARD, device, microbatch),)


def _in_turn(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """A forward and a backward in turn after a warm-up, the chunks one after another in rounds.

    Source: Narayanan et al. (SC21, arXiv 2104.04473) section 2.2; the length of the warm-up as in
    Megatron-LM, megatron/core/pipeline_parallel/schedules.py; rounds longer than p and one shorter
    where m < p: Llama 3 (arXiv 2407.21783) section 3.3.2.
    """
    forward: list[tuple[int, int]] = []
    backward: list[tuple[int, int]] = []
    lengths = rounds(m, p)
    first = 0
    for length in lengths:
        microbatches = range(first, first + length)
        forward += [(chunk, mb) for chunk in range(v) for mb in microbatches]
        backward += [(chunk, mb) for chunk in reversed(range(v)) for mb in microbatches]
        first += length
    ahead = p - device - 1
    if v > 1:
        ahead = 2 * ahead + (v - 1) * lengths[0]
    ahead = min(ahead, len(forward))
    for step in range(len(forward) + ahead):
        if step < len(forward):
            chunk, microbatch = forward[step]
            yield (Piece(Pass.FORWARD, chunk * p + device, microbatch),)
        if step >= ahead:
            chunk, microbatch = backward[step - ahead]
            yield (Piece(Pass.BACKWARD, chunk * p + device, microbatch),)


def _weights_later(device: int, m: int, *, ahead: int, put_off: int) -> Iterator[Slot]:
    """1F1B whose weight gradients come `put_off` microbatches after their input gradients."""
    ahead = min(ahead, m)
    for microbatch in range(ahead):
        yield (Piece(Pass.FORWARD, device, microbatch),)
    for microbatch in range(m + put_off):
        if microbatch < m:
            yield (Piece(Pass.INPUT, device, microbatch),)
        if put_off <= microbatch:
            yield (Piece(Pass.WEIGHT, device, microbatch - put_off),)
        if microbatch + ahead < m:
            yield (Piece(Pass.FORWARD, device, microbatch + ahead),)


def _zero_bubble_h1(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """Weight gradients wait so that each device keeps p microbatches.

    Source: Qi et al. (ICLR 2024, arXiv 2401.10241) section 2.1, figure 3 top.
    """
    return _weights_later(device, m, ahead=p - device, put_off=min(device, m))


def _zero_bubble_h2(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """Nearly twice the forwards of 1F1B before the first backward; each device keeps 2 p - 1.

    Source: Qi et al. (ICLR 2024, arXiv 2401.10241) section 2.2, figure 3 bottom.
    """
    return _weights_later(device, m, ahead=2 * (p - device) - 1, put_off=min(2 * device, m))


def _zero_bubble_v(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """Two chunks per device, the second of them on the way back, so that device 0 has both ends.

    An order for 2 p - 1 microbatches or more; with fewer, those that are missing are left out.

    Source: Qi et al. (arXiv 2401.10241) section 6; the order as in PyTorch,
    torch/distributed/pipelining/schedules.py, ScheduleZBVZeroBubble.
    """
    whole = max(m, 2 * p - 1)
    down, up = device, 2 * p - 1 - device
    order = _Order((down, up))
    order.forward(0, 2 * (p - device) - 1)
    for _ in range(device):
        order.forward(1)
        order.forward(0)
    for _ in range(p - device):
        order.forward(1)
        order.split_backward(1)
    while order.num_forward[1] < order.num_forward[0] or order.num_forward[0] < whole:
        if order.num_forward[0] < whole:
            order.forward(0)
        order.split_backward(0)
        order.forward(1)
        order.split_backward(1)
    for _ in range(device):
        order.input_gradient(0)
        order.input_gradient(1)
    for _ in range(p - device):
        order.input_gradient(0)
        order.weight_gradient(0)
    order.weight_gradient(1, order.num_waiting(1))
    order.weight_gradient(0, order.num_waiting(0))
    return (slot for slot in order.slots if slot[0].microbatch < m)


def _dual(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """Microbatches enter at both ends; each device has a stage and its mirror image.

    Source: DeepSeek-V3 (arXiv 2412.19437) section 3.2.1, figure 5; the number of steps of each
    sort as in deepseek-ai/DualPipe, dualpipe/dualpipe.py.
    """
    place = min(device, p - 1 - device)
    firsts = (0, m // 2) if device < p // 2 else (m // 2, 0)
    return _both_ways(_Order((place, p - 1 - place), firsts), place, p // 2, m // 2)


def _dual_v(device: int, p: int, v: int, m: int) -> Iterator[Slot]:
    """DualPipe folded in the middle: half the devices, each with two chunks, and one copy.

    Source: deepseek-ai/DualPipe, dualpipe/dualpipev.py.
    """
    return _both_ways(_Order((device, 2 * p - 1 - device)), device, p, m)


def _both_ways(order: "_Order", place: int, half: int, m: int) -> Iterator[Slot]:
    """The eight steps of DualPipe; `m` microbatches enter at each end of `2 half` stages."""
    inward = half - place - 1
    order.forward(0, 2 * inward)
    for _ in range(place + 1):
        order.forward(0)
        order.forward(1)
    for _ in range(inward):
        order.split_backward(1)
        order.forward(1)
    for step in range(m - 2 * half + place + 1):
        if step == 0 and inward == 0:
            order.forward(0)
            order.backward(1)
        else:
            order.forward_beside_backward(0, 1)
        order.forward_beside_backward(1, 0)
    for _ in range(inward):
        order.backward(1)
        order.forward_beside_backward(1, 0)
    # Weight gradients are put off from the middle of this step on.
    for step in range(2 * (place + 1)):
        gradient = order.backward if step < place + 1 else order.input_gradient
        gradient(1 - step % 2)
    for _ in range(inward):
        order.oldest_weight_gradient()
        order.input_gradient(0)
    while order.is_waiting:
        order.oldest_weight_gradient()
    return iter(order.slots)


class _Order:
    """The slots of a device with two stages, in the making; each side counts its microbatches."""

    def __init__(self, stages: tuple[int, int], firsts: tuple[int, int] = (0, 0)) -> None:
        self.slots: list[Slot] = []
        self.num_forward = [0, 0]
        self._stages = stages
        self._firsts = firsts
        self._num_backward = [0, 0]
        self._waiting: deque[tuple[int, Piece]] = deque()

    @property
    def is_waiting(self) -> bool:
        """A weight gradient is still to come."""
        return bool(self._waiting)

    def num_waiting(self, side: int) -> int:
        """Weight gradients of that side still to come."""
        return sum(1 for waiting, _ in self._waiting if waiting == side)

    def _forward(self, side: int) -> Piece:
        microbatch = self._firsts[side] + self.num_forward[side]
        self.num_forward[side] += 1
        return Piece(Pass.FORWARD, self._stages[side], microbatch)

    def _backward(self, side: int, kind: Pass) -> Piece:
        microbatch = self._firsts[side] + self._num_backward[side]
        self._num_backward[side] += 1
        return Piece(kind, self._stages[side], microbatch)

    def forward(self, side: int, count: int = 1) -> None:
        """The next forwards of a side."""
        self.slots += [(self._forward(side),) for _ in range(count)]

    def backward(self, side: int) -> None:
        """The next backward of a side, both gradients at once."""
        self.slots.append((self._backward(side, Pass.BACKWARD),))

    def forward_beside_backward(self, ahead: int, back: int) -> None:
        """The next forward of one side beside the next backward of the other."""
        self.slots.append((self._forward(ahead), self._backward(back, Pass.BACKWARD)))

    def input_gradient(self, side: int) -> None:
        """The next backward of a side; its weight gradient waits."""
        piece = self._backward(side, Pass.INPUT)
        self.slots.append((piece,))
        self._waiting.append((side, piece))

    def split_backward(self, side: int) -> None:
        """The next backward of a side: its input gradient, sent on, then its weight gradient."""
        self.input_gradient(side)
        self.weight_gradient(side)

    def weight_gradient(self, side: int, count: int = 1) -> None:
        """The oldest weight gradients of a side that wait."""
        for _ in range(count):
            index = next(i for i, (waiting, _) in enumerate(self._waiting) if waiting == side)
            self._take(index)

    def oldest_weight_gradient(self) -> None:
        """The weight gradient that waits longest."""
        self._take(0)

    def _take(self, index: int) -> None:
        piece = self._waiting[index][1]
        del self._waiting[index]
        self.slots.append((piece._replace(kind=Pass.WEIGHT),))


RULES: dict[ScheduleName, Callable[[int, int, int, int], Iterable[Slot]]] = {
    ScheduleName.GPIPE: _all_forward,
    ScheduleName.ONE_FORWARD_ONE_BACKWARD: _in_turn,
    ScheduleName.INTERLEAVED: _in_turn,
    ScheduleName.ZB_H1: _zero_bubble_h1,
    ScheduleName.ZB_H2: _zero_bubble_h2,
    ScheduleName.ZBV: _zero_bubble_v,
    ScheduleName.DUALPIPE: _dual,
    ScheduleName.DUALPIPE_V: _dual_v,
}
