"""Closed forms of pipeline schedules: idle time, what is held, and messages that are waited for.

Times are those of one microbatch on one device: F forward, B backward for the input, W backward
for the weights, T all three; p devices, v chunks on each, m microbatches. The formulas are the
longest of a few paths through the order of work (`work_order.py`), from the first piece of a device
to its last. With equal stages, F <= B and W <= B, as of transformer layers, they are exact; tests
and docs/extrapolation.md say how far they are off elsewhere. Sources are with the schedules.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = float | npt.NDArray[np.float64]
"""One plan's number, or an array with those of many plans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What the closed forms need of a pipeline; plans in arrays of one shape, or one plan."""

    pipeline: Numbers
    virtual_stages: Numbers
    num_microbatches: Numbers
    slowest_s: Numbers
    """F + B + W of the slowest device."""
    others_s: Numbers
    """F + B + W of all the other devices, added up: (p - 1) times the slowest if all are equal."""
    forward: Numbers
    """Share of F in F + B + W."""
    weight: Numbers
    """Share of W."""

    @property
    def input(self) -> Numbers:
        """Share of B."""
        return 1.0 - self.forward - self.weight

    @property
    def missing(self) -> Numbers:
        """Microbatches fewer than devices."""
        return above(self.pipeline - self.num_microbatches)


def above(value: Numbers) -> Numbers:
    """The value, or zero where it is below."""
    found: Numbers = np.maximum(value, 0.0)
    return found


def longest(*paths: Numbers) -> Numbers:
    """The longest of them, plan by plan."""
    found: Numbers = paths[0]
    for path in paths[1:]:
        found = np.maximum(found, path)
    return found


def least(first: Numbers, second: Numbers) -> Numbers:
    """The smaller one, plan by plan."""
    found: Numbers = np.minimum(first, second)
    return found


def rounds(num_microbatches: int, pipeline: int) -> tuple[int, ...]:
    """Microbatches of each round of an interleaved schedule: equal or nearly, and p or more."""
    count = max(1, num_microbatches // pipeline)
    length, longer = divmod(num_microbatches, count)
    return tuple(length + (index < longer) for index in range(count))


def idle_in_turn(at: Filling) -> Numbers:
    """Fill and drain of 1F1B, which interleaving divides by v.

    Fewer microbatches than devices leave each chunk but the last waiting for the first microbatch
    to come round: (v - 1)/v (p - m) T.
    """
    v = at.virtual_stages
    return at.others_s / v + (v - 1) / v * at.missing * at.slowest_s


def idle_h1(at: Filling) -> Numbers:
    """Waiting for the first backward, or fill and drain less the weight gradients put off."""
    f, b, w = at.forward, at.input, at.weight
    put_off = least(at.num_microbatches, at.pipeline) - 1
    first = at.others_s * b + at.missing * at.slowest_s * f
    return longest(first, at.others_s * (f + b) - put_off * at.slowest_s * w)


def idle_h2(at: Filling) -> Numbers:
    """As ZB-H1 with p - 1 more forwards before the first backward."""
    f, b, w = at.forward, at.input, at.weight
    ahead = least(at.num_microbatches, 2 * at.pipeline - 1)
    first = at.others_s * b + (at.pipeline - ahead) * at.slowest_s * f
    drain = at.others_s * (f + b) - (ahead - 1) * at.slowest_s * w
    fewer = (2 * at.pipeline - 1 - ahead) / 2 * at.slowest_s * (f + b)
    return longest(first, drain, fewer)


def idle_v(at: Filling) -> Numbers:
    """None where F = B = W and m is 2 p - 1 or more."""
    f, b, w = at.forward, at.input, at.weight
    ahead = least(at.num_microbatches, 2 * at.pipeline - 1)
    drain = at.others_s * b - above(ahead - at.pipeline) * at.slowest_s * w
    fewer = least(2 * at.pipeline - 1 - ahead, at.pipeline - 1) * at.slowest_s
    uneven = (at.others_s * (b - f) + fewer * (f + b - w)) / 2
    return above(longest(drain + at.missing * at.slowest_s * f, uneven))


def idle_both_ways(at: Filling, inward: Numbers) -> Numbers:
    """Of 2 (inward + 1) stages, in units of a stage's time.

    DeepSeek give inward (F&B + B + W - 3 W), which with F&B = F + B + W is this formula where
    F = B; where B is longer, theirs is up to F more, since the middle devices begin with a forward
    and a backward one after the other.
    """
    f, b, w = at.forward, at.input, at.weight
    begin = longest(2 * inward * f, inward * (f + b) - f)
    return above(begin) + inward * above(b - w)


def idle_dual(at: Filling) -> Numbers:
    """Of p stages, each on two devices."""
    return at.slowest_s * idle_both_ways(at, at.pipeline / 2 - 1)


def idle_dual_v(at: Filling) -> Numbers:
    """Of 2 p stages, half as long."""
    return at.slowest_s / 2 * idle_both_ways(at, at.pipeline - 1)


def held_all(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """Every microbatch, before the first backward."""
    return m


def held_in_turn(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """Stage i of 1F1B holds min(m, p - i) microbatches.

    Interleaved, it has done 2 (p - i - 1) + (v - 1) n chunks forward, n the length of a round,
    before its first backward.
    """
    behind = p - position - 1
    length = np.ceil(m / np.maximum(m // p, 1.0))
    chunks = np.where(np.equal(v, 1), behind + 1, 2 * behind + (v - 1) * length + 1)
    return least(chunks / v, m)


def held_h1(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """As the first stage of 1F1B, on every stage."""
    return least(m, p)


def held_h2(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """Nearly twice as many, on every stage."""
    return least(m, 2 * p - 1)


def held_v(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """On the way there and on the way back, half of the device's layers each: p if m allows."""
    return (least(m, 2 * p - 1 - position) + least(m, position + 1)) / 2


def held_dual(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """In microbatches through one of the device's two stages."""
    return p + 1


def held_dual_v(p: Numbers, v: Numbers, m: Numbers, position: Numbers) -> Numbers:
    """In all layers of the device: 2 p + 1 of its halves."""
    return p + 0.5


def messages_all_forward(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """Fill and drain."""
    return 2 * (p - 1)


def messages_in_turn(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """With p - i microbatches in flight on stage i a message there and back is waited for in each.

    A round of chunks longer than p leaves time for messages, one of p or fewer does not where it
    comes first and last (Llama 3, arXiv 2407.21783, section 3.3.2, has longer ones for that).
    """
    num_rounds = np.maximum(m // p, 1.0)
    short = 1.0 * (np.ceil(m / num_rounds) <= p) + 1.0 * (m // num_rounds <= p)
    interleaved = 2 * (p - 1) + p * (v - 1) * short
    found: Numbers = np.where(np.equal(v, 1), messages_plain(p, v, m), interleaved)
    return found


def messages_plain(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """Those of 1F1B, whatever v: the wait for a message there and back in each microbatch."""
    return longest(2 * (p - 1), 2 * (p - 1) / p * m + 2 * (p - 2))


def messages_h1(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """Weight gradients fill the wait of all but the first p microbatches."""
    return least(4 * (p - 1), messages_plain(p, v, m))


def messages_v(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """There and back twice, and the wait of a device for the one after it."""
    return least(6 * p - 8, longest(4 * (p - 1), 2 * p - 6 + 2 * m))


def messages_dual(p: Numbers, v: Numbers, m: Numbers) -> Numbers:
    """Half of the microbatches go each way."""
    return (p - 1) / p * m + 1.5 * p - 3
