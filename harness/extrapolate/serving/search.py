"""The replicas, their loads and the split of the cluster that serve most within the limits."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import PlanError
from harness.extrapolate.serving.memory import cached_tokens
from harness.extrapolate.serving.plans import least_chips, legal_plans, replica_plans
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
from harness.units import capacity, duration, significant

DECODE_TOKENS = 4096
"""Tokens for which a replica that decodes keeps work space."""
MAX_FRONT = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """One load of one replica."""

    served: Served
    index: int

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


def candidates(passes: PassModel, memory_bytes: float) -> Candidates:
    """What each legal replica does with each load that its cache holds.

    Raises:
        PlanError: when a degree that is set does not divide the model.
    """
    found = Candidates()
    modes = passes.spec.modes
    for plan in replica_plans(passes.model, passes.cluster, passes.spec):
        room = room_for(passes, plan, memory_bytes, DECODE_TOKENS)
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
    return Choice(served, index) if rates[index] > 0 else None


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


def _room_error(passes: PassModel, memory_bytes: float) -> PlanError:
    """Why no replica holds the model and a sequence: too few chips, or too long a sequence."""
    spec, model, cluster = passes.spec, passes.model, passes.cluster
    fewest, longest = math.inf, 0.0
    most_chips = max(cluster.num_chips, cluster.tiers[-1].chips)
    for plan in legal_plans(model, cluster, spec):
        room = room_for(passes, plan, memory_bytes, 4 * DECODE_TOKENS)
        one = cached_tokens(spec, np.array(2.0 * plan.pipeline))
        if plan.num_chips <= most_chips and room.holds(one, np.array(2.0 * plan.pipeline)):
            fewest = min(fewest, 2 * plan.num_chips)
        if plan.num_chips <= cluster.num_chips:
            longest = max(longest, room.capacity_tokens / (2 * plan.pipeline))
    told = (
        f"no replica of {model.name} in {spec.weight_dtype} within the {cluster.num_chips:,} chips "
        f"of the cluster holds its weights and sequences of "
        f"{spec.input_tokens + spec.output_tokens:,} tokens in {capacity(memory_bytes)} per chip"
    )
    if fewest <= most_chips and fewest > cluster.num_chips:
        return PlanError(f"cluster.num_chips: {told}. Set cluster.num_chips={fewest} or more.")
    if longest >= spec.input_tokens + 1:
        fits = int(longest - spec.input_tokens)
        return PlanError(
            f"serving.output_tokens: {told}. Set serving.output_tokens={fits} or less."
        )
    if longest >= 2:
        return PlanError(
            f"serving.input_tokens: {told}. Set serving.input_tokens={int(longest / 2)} or less."
        )
    return PlanError(
        f"model: {told}, and none would with the {most_chips:,} that its tiers join. Use larger "
        "chips or an 8-bit serving.weight_dtype."
    )


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
        return _room_error(passes, memory_bytes)
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
    return _pair_error(passes, found)


def _pair_error(passes: PassModel, found: Candidates) -> PlanError:
    """Why no replica that reads and one that decodes go together, each within its limit."""
    spec, num_chips = passes.spec, passes.cluster.num_chips
    writes = min(
        served.plan.num_chips for served in found.decode if (served.tpot_s[0] <= spec.tpot_s).any()
    )
    beside = [
        float(served.ttft_s.min())
        for served in found.prefill
        if served.plan.num_chips + writes <= num_chips
    ]
    if beside:
        least = min(beside)
        return PlanError(
            f"serving.ttft_ms: {spec.ttft_s * 1e3:g} is less than the {duration(least)} of the "
            f"fastest replica that leaves chips for one that decodes. Set serving.ttft_ms="
            f"{_rounded_up(least)} or more."
        )
    reads = min(
        served.plan.num_chips for served in found.prefill if (served.ttft_s[0] <= spec.ttft_s).any()
    )
    return PlanError(
        f"cluster.num_chips: {num_chips:,} chips do not hold a replica that reads and one that "
        f"decodes. Set cluster.num_chips={reads + writes} or more, or add aggregated to "
        "serving.modes."
    )
