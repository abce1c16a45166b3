"""What a replica does with each number of sequences: decode, prefill, or both at once.

Arrays have the draws of the constants first and the numbers of sequences last.
"""

from dataclasses import dataclass

import numpy as np

from harness.extrapolate.serving.exchange import cache_transfer_s
from harness.extrapolate.serving.memory import CacheRoom, cache_room, cached_tokens
from harness.extrapolate.serving.priors import MAX_PREFILL_TOKENS, MAX_UTILIZATION
from harness.extrapolate.serving.schedule import Floats, filling_s, waiting_s
from harness.extrapolate.serving.times import (
    NOMINAL,
    PassLoad,
    PassModel,
    PassTime,
    chunk_of,
    pass_time,
)
from harness.serving_projection import ReplicaPlan
from harness.workload.step import Phase

MAX_SEQUENCES = 4096
STEPS_PER_DOUBLING = 16
UTILIZATIONS = np.concatenate(([0.02], np.arange(0.05, MAX_UTILIZATION + 1e-9, 0.05)))
CHUNKS = (256, 512, 1024, 2048, 4096, 8192)
"""Tokens of a prompt that ride along with decoding; 512 to 2,048 in Sarathi-Serve
(arXiv 2403.02310) section 5."""


COUNTS = np.unique(
    np.round(
        2 ** (np.arange(0, np.log2(MAX_SEQUENCES) * STEPS_PER_DOUBLING + 1) / STEPS_PER_DOUBLING)
    )
)
"""All numbers of sequences that are tried; those of a replica are the first of them, so that
replicas with the same layers share their times."""


def counts(most: float) -> Floats:
    """The numbers of sequences up to `most`."""
    return COUNTS[: int(np.searchsorted(COUNTS, most, side="right"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a replica does, for each draw and each choice of its load."""

    plan: ReplicaPlan
    load: PassLoad
    requests_per_s: Floats
    """[draw, batch] of the replica."""
    ttft_s: Floats
    """[draw, batch]; that of an idle replica's queue for decoding alone, which has none."""
    tpot_s: Floats
    """[draw, batch]"""
    pass_s: Floats
    """[draw, batch] the slowest stage; of a pass with a chunk where some have one."""
    utilization: Floats
    """[draw, batch] share of the passes that read prompts."""
    num_sequences: Floats
    """[batch] in flight in the replica, or read at once."""

    @property
    def requests_per_s_per_chip(self) -> Floats:
        """[draw, batch], over the chips of the replica."""
        return self.requests_per_s / self.plan.num_chips


def _none(count: Floats) -> Floats:
    return np.zeros_like(count)


def room_for(
    passes: PassModel, plan: ReplicaPlan, memory_bytes: float, num_tokens: int
) -> CacheRoom:
    """The cache beside the work space of a pass of so many tokens."""
    rows = passes.spec.speculation.checked_tokens
    return cache_room(passes.model, plan, passes.spec, memory_bytes, num_tokens, num_logits=rows)


def most_sequences(passes: PassModel, plan: ReplicaPlan, room: CacheRoom) -> Floats:
    """Numbers of sequences of a microbatch that the cache of an attention group holds."""
    choices = counts(room.capacity_tokens / passes.spec.input_tokens)
    in_flight = plan.pipeline * choices
    return choices[room.holds(cached_tokens(passes.spec, in_flight), in_flight)]


def decoded(
    passes: PassModel, plan: ReplicaPlan, sequences: Floats, factors: Floats = NOMINAL
) -> Served:
    """Decoding alone; a pipeline has one microbatch of so many sequences per stage in flight."""
    spec = passes.spec
    load = PassLoad(
        phase=Phase.DECODE,
        decoding=sequences,
        checked=spec.speculation.checked_tokens,
        prompts=_none(sequences),
        chunk=0,
    )
    slowest = pass_time(passes, plan, load, factors).slowest_s * spec.speculation.pass_share
    tokens = spec.speculation.tokens_per_pass
    groups = plan.data
    return Served(
        plan=plan,
        load=load,
        requests_per_s=groups * sequences * tokens / slowest / spec.output_tokens,
        ttft_s=np.zeros_like(slowest),
        tpot_s=plan.pipeline * slowest / tokens,
        pass_s=slowest,
        utilization=np.ones_like(slowest),
        num_sequences=groups * plan.pipeline * sequences,
    )


def prefilled(
    passes: PassModel,
    plan: ReplicaPlan,
    prompts: Floats,
    factors: Floats = NOMINAL,
    utilizations: Floats = UTILIZATIONS,
) -> Served:
    """Prefill alone, for each number of prompts together and, inside it, each utilization."""
    spec = passes.spec
    chunk = chunk_of(spec)
    num_chunks = -(-spec.new_input_tokens // chunk)
    load = PassLoad(
        phase=Phase.PREFILL, decoding=_none(prompts), checked=1, prompts=prompts, chunk=chunk
    )
    time: PassTime = pass_time(passes, plan, load, factors)
    service = num_chunks * time.slowest_s
    through = (num_chunks - 1) * time.slowest_s + time.through_s
    # One column for each pair of prompts and utilization.
    busy = np.tile(utilizations, len(prompts))
    each, together = (np.repeat(array, len(utilizations), axis=-1) for array in (service, prompts))
    wait = waiting_s(each, busy) + filling_s(each, busy, together)
    sent = cache_transfer_s(passes.model, passes.cluster, plan, spec)
    ttft = wait + np.repeat(through, len(utilizations), axis=-1)
    return Served(
        plan=plan,
        load=PassLoad(
            phase=load.phase,
            decoding=_none(together),
            checked=1,
            prompts=together,
            chunk=chunk,
        ),
        requests_per_s=plan.data * together * busy / each,
        ttft_s=ttft + sent,
        tpot_s=np.zeros_like(ttft),
        pass_s=each,
        utilization=np.broadcast_to(busy, ttft.shape),
        num_sequences=plan.data * together,
    )


def prompts_together(passes: PassModel) -> Floats:
    """Numbers of prompts that one pass of prefill may read, in each attention group."""
    return counts(max(1.0, MAX_PREFILL_TOKENS / passes.spec.new_input_tokens))


def chunk_sizes(passes: PassModel) -> tuple[int, ...]:
    """Chunks that prompts may be cut into when they ride along."""
    spec = passes.spec
    if spec.chunk_tokens is not None:
        return (min(spec.chunk_tokens, spec.new_input_tokens),)
    sizes = {min(chunk, spec.new_input_tokens) for chunk in CHUNKS}
    return tuple(sorted(sizes))


def mixed(
    passes: PassModel,
    plan: ReplicaPlan,
    sequences: Floats,
    chunk: int,
    factors: Floats = NOMINAL,
) -> Served:
    """Decoding with a chunk of a prompt in as many passes as the prompts need.

    In the steady state b tokens_per_pass / s_out requests end in a pass, and as many begin, each
    with s_in / c chunks. Where that is more than one chunk per pass the choice cannot be kept up.
    """
    spec = passes.spec
    speculation = spec.speculation
    num_chunks = -(-spec.new_input_tokens // chunk)

    def load(prompts: float) -> PassLoad:
        return PassLoad(
            phase=Phase.DECODE,
            decoding=sequences,
            checked=speculation.checked_tokens,
            prompts=np.full_like(sequences, prompts),
            chunk=chunk if prompts else 0,
        )

    tokens = speculation.tokens_per_pass
    alone = pass_time(passes, plan, load(0.0), factors).slowest_s * speculation.pass_share
    together = pass_time(passes, plan, load(1.0), factors)
    shared = together.slowest_s + alone * (1 - 1 / speculation.pass_share)
    share = sequences * tokens * num_chunks / spec.output_tokens
    share = np.broadcast_to(share, alone.shape)
    mean = (1 - np.minimum(share, 1)) * alone + np.minimum(share, 1) * shared
    service = num_chunks * shared
    through = service + (plan.pipeline - 1) * shared
    # Prompts are read in that share of the time, which is more than that of the passes.
    busy = np.minimum(0.999, share * shared / mean)
    is_kept_up = share <= MAX_UTILIZATION
    ttft = np.where(is_kept_up, shared / 2 + through + waiting_s(service, busy), np.inf)
    return Served(
        plan=plan,
        load=load(1.0),
        requests_per_s=np.where(
            is_kept_up, plan.data * sequences * tokens / mean / spec.output_tokens, 0.0
        ),
        ttft_s=ttft,
        tpot_s=plan.pipeline * mean / tokens,
        pass_s=shared,
        utilization=share,
        num_sequences=plan.data * plan.pipeline * sequences,
    )
