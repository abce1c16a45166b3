"""The closed form of continuous batching against a replica played pass by pass."""

from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from harness.config.serving_spec import load_serving
from harness.config.specs import load_chip, load_cluster, load_model
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.serving.pools import Served, decoded, mixed
from harness.extrapolate.serving.serve import settled
from harness.extrapolate.serving.times import PassModel
from harness.serving_projection import ReplicaPlan
from kernels import registry

CHUNK = 512
NUM_PASSES = 60_000
PLAN = ReplicaPlan(tensor=8)


@pytest.fixture(scope="module")
def passes() -> PassModel:
    chip = load_chip("h100_sxm")
    lookup = Lookup(chip, registry.cost)
    spec = replace(load_serving("chat"), input_tokens=2048, output_tokens=256)
    spec = settled(spec, chip, lookup)
    return PassModel(load_model("llama3_70b"), load_cluster("h100_100k"), lookup, spec)


def played(passes: PassModel, requests_per_s: float) -> tuple[float, float, float]:
    """Mean time to the first token, mean time per token, and mean sequences in flight.

    Requests come at random. Each pass gives a token to every sequence and reads one chunk of the
    oldest prompt, if there is one; a prompt that has been read decodes from the next pass on.
    """
    spec = passes.spec
    sizes = np.arange(1.0, 513.0)
    alone = decoded(passes, PLAN, sizes).pass_s[0]
    shared = mixed(passes, PLAN, sizes, CHUNK).pass_s[0]
    generator = np.random.default_rng(3)
    arrivals = np.cumsum(generator.exponential(1 / requests_per_s, 200_000))
    waiting: deque[float] = deque()
    ends: Counter[int] = Counter()
    began: dict[int, list[float]] = {}
    now, following, active, read = 0.0, 0, 0, 0
    first, per_token, in_flight = [], [], []
    for number in range(NUM_PASSES):
        while arrivals[following] <= now:
            waiting.append(arrivals[following])
            following += 1
        size = max(1, active) - 1
        has_chunk = bool(waiting)
        now += float(shared[size] if has_chunk else alone[size])
        if number > NUM_PASSES // 10:
            in_flight.append(active)
        active -= ends.pop(number, 0)
        for start in began.pop(number, ()):
            per_token.append((now - start) / spec.output_tokens)
        if has_chunk:
            read += CHUNK
            if read >= spec.input_tokens:
                read = 0
                first.append(now - waiting.popleft())
                active += 1
                ends[number + spec.output_tokens] += 1
                began.setdefault(number + spec.output_tokens, []).append(now)
    later = slice(len(first) // 10, None)
    return (
        float(np.mean(first[later])),
        float(np.mean(per_token[later])),
        float(np.mean(in_flight)),
    )


@pytest.mark.parametrize("sequences", [8.0, 24.0, 48.0])
def test_times_are_those_of_a_replica_played_pass_by_pass(
    passes: PassModel, sequences: float
) -> None:
    found: Served = mixed(passes, PLAN, np.array([sequences]), CHUNK)
    first, per_token, in_flight = played(passes, float(found.requests_per_s[0, 0]))
    # Prompts come in bursts, and a burst makes both passes and the number in flight larger, so
    # that the closed form, which knows means alone, is the faster one.
    assert in_flight == pytest.approx(sequences, rel=0.08)
    assert per_token == pytest.approx(float(found.tpot_s[0, 0]), rel=0.11)
    assert first == pytest.approx(float(found.ttft_s[0, 0]), rel=0.25)
