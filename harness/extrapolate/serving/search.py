"""The replicas, their loads and the split of the cluster that serve most within the limits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import PlanError
from harness.extrapolate.serving.memory import cached_tokens
from harness.extrapolate.serving.plans import least_chips, replica_plans
from harness.extrapolate.serving.pools import (
    Served,
    chunk_sizes,
    decoded,
    mixed,
    most_sequences,
    prefilled,
    prompts_together,
    room_for,
)
from harness.extrapolate.serving.schedule import Floats, joined_rate, non_dominated, split_chips
from harness.extrapolate.serving.times import PassModel
from harness.serving_projection import ServingMode
from harness.units import GIBI, capacity, duration, significant

DECODE_TOKENS = 4096
"""Tokens for which a replica that decodes keeps work space."""
MAX_FRONT = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """One load of one replica."""

    served: Served
    index: int
    num_choices: int = 0
    """Loads that the cache allows."""

    @property
    def rate(self) -> float:
        """Requests/s of the replica."""
        return float(self.served.requests_per_s[0, self.index])

    @property
    def rate_per_chip(self) -> float:
        """Requests/s over the chips of the replica."""
        return self.rate / self.served.plan.num_chips

    @property
    def tpot_s(self) -> float:
        """Mean time per output token."""
        return float(self.served.tpot_s[0, self.index])

    @property
    def ttft_s(self) -> float:
        """Mean time to the first token."""
        return float(self.served.ttft_s[0, self.index])


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One way to run the cluster."""

    mode: ServingMode
    decode: Choice
    """What decodes; in an aggregated replica what does both."""
    prefill: Choice | None = None
    num_decode: int = 0
    num_prefill: int = 0
    requests_per_s: float = 0.0
    """Of the cluster, before imbalance and failures."""

    @property
    def ttft_s(self) -> float:
        """Mean time to the first token."""
        return (self.prefill or self.decode).ttft_s


@dataclass(slots=True)
class Candidates:
    """Everything that was considered."""

    decode: list[Served] = field(default_factory=list)
    prefill: list[Served] = field(default_factory=list)
    both: list[Served] = field(default_factory=list)
    num_considered: int = 0
    largest_need: float = math.inf
    """Bytes per chip of the replica that comes nearest to fitting."""


def candidates(passes: PassModel, memory_bytes: float) -> Candidates:
    """What each legal replica does with each load that its cache holds.

    Raises:
        PlanError: when a degree that is set does not divide the model.
    """
    found = Candidates()
    modes = passes.spec.modes
    for plan in replica_plans(passes.model, passes.cluster, passes.spec):
        room = room_for(passes, plan, memory_bytes, DECODE_TOKENS)
        one = float(cached_tokens(passes.spec, np.array(float(plan.pipeline))))
        least = room.needed_bytes(one, plan.pipeline)
        found.largest_need = min(found.largest_need, least / room.limit * memory_bytes)
        if ServingMode.DISAGGREGATED in modes:
            sequences = most_sequences(passes, plan, room)
            if len(sequences):
                found.decode.append(decoded(passes, plan, sequences))
            prompts = prompts_together(passes)
            read = room_for(passes, plan, memory_bytes, 4 * DECODE_TOKENS)
            # Those that are read, and those that are being sent.
            kept = 2.0 * prompts
            prompts = prompts[read.holds(kept * passes.spec.input_tokens, kept)]
            if len(prompts):
                found.prefill.append(prefilled(passes, plan, prompts))
        if ServingMode.AGGREGATED in modes:
            for chunk in chunk_sizes(passes):
                read = room_for(passes, plan, memory_bytes, DECODE_TOKENS + chunk)
                sequences = most_sequences(passes, plan, read)
                if len(sequences):
                    found.both.append(mixed(passes, plan, sequences, chunk))
    pools = (*found.decode, *found.prefill, *found.both)
    found.num_considered = sum(served.requests_per_s.shape[-1] for served in pools)
    return found


def _best_load(served: Served, is_allowed: Floats) -> Choice | None:
    rates = np.where(is_allowed, served.requests_per_s[0], 0.0)
    index = int(np.argmax(rates))
    return Choice(served, index, len(rates)) if rates[index] > 0 else None


def _choices(pool: Iterable[Served], passes: PassModel, *, is_final: bool) -> list[Choice]:
    """The best load of each replica within the limits that concern it."""
    spec = passes.spec
    found = []
    for served in pool:
        is_allowed = served.ttft_s[0] <= spec.ttft_s
        if is_final:
            is_allowed = is_allowed & (served.tpot_s[0] <= spec.tpot_s)
        choice = _best_load(served, is_allowed)
        if choice is not None:
            found.append(choice)
    return found


def best_aggregated(passes: PassModel, found: Candidates) -> Found | None:
    """The replica and load that make the cluster serve most, reading and decoding together."""
    num_chips = passes.cluster.num_chips
    best: Found | None = None
    for choice in _choices(found.both, passes, is_final=True):
        replicas = num_chips // choice.served.plan.num_chips
        served = replicas * choice.rate
        if best is None or served > best.requests_per_s:
            best = Found(
                mode=ServingMode.AGGREGATED,
                decode=choice,
                num_decode=replicas,
                requests_per_s=served,
            )
    return best


def best_disaggregated(passes: PassModel, found: Candidates) -> Found | None:
    """The pair of replicas that makes the cluster serve most, each with its own load.

    The rates of the pools are independent, so that every pair is one element of an array.
    """
    prefill = _choices(found.prefill, passes, is_final=False)
    decode = _choices(found.decode, passes, is_final=True)
    if not prefill or not decode:
        return None
    num_chips = passes.cluster.num_chips
    reading = np.array([choice.rate_per_chip for choice in prefill])[:, None]
    writing = np.array([choice.rate_per_chip for choice in decode])[None, :]
    first = np.array([choice.served.plan.num_chips for choice in prefill])[:, None]
    second = np.array([choice.served.plan.num_chips for choice in decode])[None, :]
    joined = np.where(first + second <= num_chips, joined_rate(reading, writing), 0.0)
    best: Found | None = None
    # Whole replicas cost a small cluster some of it, so more than the first pair is tried.
    for place in np.argsort(-joined, axis=None)[:64]:
        row, column = np.unravel_index(int(place), joined.shape)
        if joined[row, column] == 0:
            break
        one, other = prefill[int(row)], decode[int(column)]
        split = split_chips(
            num_chips,
            prefill_chips=one.served.plan.num_chips,
            decode_chips=other.served.plan.num_chips,
            prefill_rate=one.rate,
            decode_rate=other.rate,
        )
        if split.num_decode and (best is None or split.requests_per_s > best.requests_per_s):
            best = Found(
                mode=ServingMode.DISAGGREGATED,
                decode=other,
                prefill=one,
                num_decode=split.num_decode,
                num_prefill=split.num_prefill,
                requests_per_s=split.requests_per_s,
            )
    return best


def best_of_each(passes: PassModel, found: Candidates) -> tuple[Found, ...]:
    """The best of each mode that can meet the limits, the best one first."""
    made = (best_aggregated(passes, found), best_disaggregated(passes, found))
    modes = [one for one in made if one is not None]
    return tuple(sorted(modes, key=lambda one: -one.requests_per_s))


def front(passes: PassModel, found: Candidates) -> tuple[Found, ...]:
    """Points that no other beats both in tokens/s per user and per chip, the slowest first.

    The limit on the first token holds on all of it; that on each token is what it is drawn over.
    """
    points: list[tuple[float, float, Found]] = []
    prefill = max(
        _choices(found.prefill, passes, is_final=False),
        key=lambda choice: choice.rate_per_chip,
        default=None,
    )
    for served in found.decode if prefill is not None else ():
        assert prefill is not None
        per_chip = joined_rate(np.array(prefill.rate_per_chip), served.requests_per_s_per_chip[0])
        for index in non_dominated(1 / served.tpot_s[0], per_chip):
            made = Found(
                mode=ServingMode.DISAGGREGATED,
                decode=Choice(served, int(index)),
                prefill=prefill,
            )
            points.append((1 / served.tpot_s[0, index], float(per_chip[index]), made))
    for served in found.both:
        is_allowed = served.ttft_s[0] <= passes.spec.ttft_s
        per_chip = np.where(is_allowed, served.requests_per_s_per_chip[0], 0.0)
        for index in non_dominated(1 / served.tpot_s[0], per_chip):
            if per_chip[index] > 0:
                made = Found(mode=ServingMode.AGGREGATED, decode=Choice(served, int(index)))
                points.append((1 / served.tpot_s[0, index], float(per_chip[index]), made))
    if not points:
        return ()
    across = np.array([point[0] for point in points])
    up = np.array([point[1] for point in points])
    kept = non_dominated(across, up)
    return tuple(points[int(index)][2] for index in _thinned(kept, across))


def _thinned(kept: np.ndarray[tuple[int], np.dtype[np.int64]], across: Floats) -> Sequence[int]:
    """At most MAX_FRONT of the points, evenly over the logarithm of what is drawn across."""
    if len(kept) <= MAX_FRONT:
        return [int(index) for index in kept]
    wanted = np.geomspace(across[kept[0]], across[kept[-1]], MAX_FRONT)
    nearest = {int(np.argmin(np.abs(np.log(across[kept] / one)))) for one in wanted}
    return [int(kept[place]) for place in sorted(nearest)]


def _rounded_up(seconds: float) -> str:
    """Milliseconds of three digits that are no less."""
    text = significant(seconds * 1e3)
    return text if float(text) >= seconds * 1e3 else significant(seconds * 1e3 * 1.005)


def limit_error(passes: PassModel, found: Candidates, memory_bytes: float) -> PlanError:
    """Why nothing serves within the limits, with the nearest that would."""
    spec, model, cluster = passes.spec, passes.model, passes.cluster
    fewest = least_chips(model, cluster, spec)
    if fewest > cluster.num_chips:
        return PlanError(
            f"cluster.num_chips: {cluster.num_chips:,} is less than the {fewest:,} chips of a "
            f"replica with the degrees that are set. Set cluster.num_chips={fewest}, or a degree "
            "of serving to null."
        )
    reading, writing = [*found.prefill, *found.both], [*found.decode, *found.both]
    if not reading or not writing:
        return PlanError(
            f"model: no replica of {model.name} in {spec.weight_dtype} within the "
            f"{cluster.num_chips:,} chips of the cluster holds its weights and one sequence of "
            f"{spec.input_tokens + spec.output_tokens:,} tokens in {capacity(memory_bytes)} per "
            f"chip; the nearest needs {significant(found.largest_need / GIBI)} GiB. Use more or "
            "larger chips, shorter sequences or an 8-bit serving.weight_dtype."
        )
    least_ttft = min(float(served.ttft_s.min()) for served in reading)
    if least_ttft > spec.ttft_s:
        return PlanError(
            f"serving.ttft_ms: {spec.ttft_s * 1e3:g} is less than the {duration(least_ttft)} that "
            f"{spec.new_input_tokens:,} tokens of prompt take in the fastest replica. Set "
            f"serving.ttft_ms={_rounded_up(least_ttft)} or more."
        )
    least_tpot = min(float(served.tpot_s.min()) for served in writing)
    if least_tpot > spec.tpot_s:
        return PlanError(
            f"serving.tpot_ms: {spec.tpot_s * 1e3:g} is less than the {duration(least_tpot)} per "
            f"token of the fastest replica with one sequence. Set serving.tpot_ms="
            f"{_rounded_up(least_tpot)} or more."
        )
    within = [
        float(np.where(served.ttft_s[0] <= spec.ttft_s, served.tpot_s[0], np.inf).min())
        for served in found.both
    ]
    least = min(within, default=math.inf)
    if math.isfinite(least):
        return PlanError(
            f"serving.tpot_ms: {spec.tpot_s * 1e3:g} is less than the {duration(least)} per token "
            f"that replicas reach which give the first token within {duration(spec.ttft_s)}. Set "
            f"serving.tpot_ms={_rounded_up(least)} or more, or add the mode disaggregated."
        )
    return PlanError(
        f"cluster.num_chips: {cluster.num_chips:,} chips do not hold a replica that reads and one "
        "that decodes. Add the mode aggregated to serving.modes, or take twice the chips."
    )
