"""Schedule simulator: runs the work order of a pipeline piece by piece.

It knows nothing of the closed forms in `schedule.py`; each is checked against the other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from harness.extrapolate.work_order import Pass, WorkOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePasses:
    """Seconds that a stage works on one microbatch, by pass."""

    forward_s: float
    input_s: float
    """Backward, the gradient of its input."""
    weight_s: float
    """Backward, the gradients of its weights."""

    @property
    def total_s(self) -> float:
        """All three."""
        return self.forward_s + self.input_s + self.weight_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDevice:
    """One device of a pipeline over a step."""

    first_s: float
    """When it starts its first piece."""
    last_s: float
    """When it has done its last."""
    busy_s: float
    most_held: int
    """Stages times microbatches whose activations it holds at once, at most: from the start of
    the forward to the end of the weight gradient."""

    @property
    def span_s(self) -> float:
        """From its first piece to its last."""
        return self.last_s - self.first_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedPipeline:
    """A step of a pipeline, as it ran."""

    devices: tuple[SimulatedDevice, ...]

    @property
    def makespan_s(self) -> float:
        """From the first piece of any device to the last."""
        return max(device.last_s for device in self.devices)

    @property
    def longest_span_s(self) -> float:
        """The longest time from a device's first piece to its last."""
        return max(device.span_s for device in self.devices)


def simulate(
    order: WorkOrder, stages: Sequence[StagePasses], *, message_s: float = 0.0
) -> SimulatedPipeline:
    """Run an order of work; `stages` has the times of each stage along the model.

    A piece starts as soon as its device is free and its inputs are there: for a forward that of
    the stage before, for a backward that of the stage after, `message_s` later if it comes from
    another device. Messages do not wait for one another and cost the devices nothing.
    """
    m, num_stages = order.num_microbatches, order.num_stages
    assert len(stages) == num_stages, f"{num_stages} stages, but times of {len(stages)}"
    seconds = {
        Pass.FORWARD: [stage.forward_s for stage in stages],
        Pass.INPUT: [stage.input_s for stage in stages],
        Pass.WEIGHT: [stage.weight_s for stage in stages],
        Pass.BACKWARD: [stage.input_s + stage.weight_s for stage in stages],
    }
    # What a stage hands on: its output (index stage * m + microbatch) or, behind all outputs, the
    # gradient of its input. A piece names the one it waits for, if any.
    gradients = num_stages * m
    done: list[float | None] = [None] * (2 * gradients)
    made_by = [0] * (2 * gradients)
    waiting: dict[int, int] = {}
    num_devices = len(order.devices)
    clock, busy, first = [0.0] * num_devices, [0.0] * num_devices, [-1.0] * num_devices
    next_slot, held, most_held = [0] * num_devices, [0] * num_devices, [0] * num_devices
    ready = deque(range(num_devices))
    while ready:
        device = ready.popleft()
        slots = order.devices[device]
        index = next_slot[device]
        while index < len(slots):
            start, took, blocked = clock[device], 0.0, -1
            for kind, stage, microbatch in slots[index]:
                took += seconds[kind][stage]
                if kind is Pass.FORWARD:
                    if stage == 0:
                        continue
                    needed = (stage - 1) * m + microbatch
                elif kind is Pass.WEIGHT:
                    continue
                elif stage + 1 < num_stages:
                    needed = gradients + (stage + 1) * m + microbatch
                else:
                    needed = stage * m + microbatch
                at = done[needed]
                if at is None:
                    blocked = needed
                    break
                if made_by[needed] != device:
                    at += message_s
                start = max(start, at)
            if blocked >= 0:
                waiting[blocked] = device
                break
            if first[device] < 0:
                first[device] = start
            end = start + took
            released = 0
            for kind, stage, microbatch in slots[index]:
                made = stage * m + microbatch
                if kind is Pass.FORWARD:
                    held[device] += 1
                else:
                    released += kind is not Pass.INPUT
                    made += gradients
                if kind is not Pass.WEIGHT:
                    done[made], made_by[made] = end, device
                    if made in waiting:
                        ready.append(waiting.pop(made))
            most_held[device] = max(most_held[device], held[device])
            held[device] -= released
            clock[device] = end
            busy[device] += took
            index += 1
        next_slot[device] = index
    stuck = [d for d in range(num_devices) if next_slot[d] < len(order.devices[d])]
    assert not stuck, f"devices {stuck} wait for one another"
    return SimulatedPipeline(
        devices=tuple(
            SimulatedDevice(
                first_s=first[device],
                last_s=clock[device],
                busy_s=busy[device],
                most_held=most_held[device],
            )
            for device in range(num_devices)
        )
    )
