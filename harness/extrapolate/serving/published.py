"""What the model gives for a published rate of serving, from the configuration that is published.

Nothing is set per row: what a source says of its configuration is read from the columns and the
notes, or from the source's own page where the table has no column for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.device.chip import ChipSpec
from harness.errors import PlanError
from harness.extrapolate.calibration import NONE, Calibration
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import CostFunction, Lookup
from harness.extrapolate.memory import memory_limit
from harness.extrapolate.serving.pools import (
    Served,
    decoded,
    most_sequences,
    prefilled,
    prompts_together,
    room_for,
)
from harness.extrapolate.serving.schedule import Floats
from harness.extrapolate.serving.search import DECODE_TOKENS
from harness.extrapolate.serving.serve import SERVING_SOFTWARE, settled
from harness.extrapolate.serving.spec import ServingSpec, Speculation
from harness.extrapolate.serving.times import PassModel
from harness.extrapolate.serving.uncertainty import Draws, deviations, interval
from harness.serving_projection import ReplicaPlan
from harness.workload.cost import step_cost
from harness.workload.model import ModelSpec
from harness.workload.step import Phase, Shard, check_shard

METRICS = (
    "prefill_tokens_per_s_per_chip",
    "prefill_tokens_per_s_per_node",
    "decode_tokens_per_s_per_chip",
    "decode_tokens_per_s_per_node",
)
"""Names that published rows give their rates."""
NO_LIMIT_S = 3600.0
NODE_CHIPS = 8
"""Chips of a node in the sources that count by node."""
DEPLOYED_EXPERT = {Phase.PREFILL: 32, Phase.DECODE: 144}
"""Chips that share the experts of DeepSeek-V3 as its makers run it, where a source does not say:
open-infra-index, 202502OpenSourceWeek, day 6."""
USUAL_TPOT_S = 0.05
"""Limit per token where a source gives neither a batch nor a speed: that of CloudMatrix384."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRate:
    """Tokens/s of a chip, with P10 and P90."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "ServingRate":
        """The same of so many chips."""
        return ServingRate(
            value=self.value * factor, low=self.low * factor, high=self.high * factor
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSource:
    """What a source says of all its rows, beyond the columns of the table."""

    input_tokens: int = 4096
    context_tokens: int = 4096
    speculation: Speculation | None = None
    dies_per_chip: int = 1
    """Parts of what the data sheet calls a chip that the source counts as ranks."""
    source: str


SOURCES: Mapping[str, PublishedSource] = {
    "cloudmatrix384": PublishedSource(
        speculation=Speculation(num_tokens=1, acceptance=0.7),
        dies_per_chip=2,
        source="arXiv 2506.12708 section 5: prompts and caches of 4,096 tokens, one guess per pass "
        "with 70 % acceptance, a rank of EP320 per die, figures per 910C of two dies (recalled)",
    ),
    "deepseek-serve": PublishedSource(
        context_tokens=4989,
        source="open-infra-index, 202502OpenSourceWeek, day 6; prompts of unknown length, taken as "
        "4,096 tokens; whether guesses were checked is not said, so none are",
    ),
    "mthreads-infer": PublishedSource(
        source="press; nothing of lengths or plans, so those of DeepSeek's own deployment",
    ),
}
UNKNOWN_SOURCE = PublishedSource(source="assumed: 4,096 tokens")


def _rate(served: Served, tokens: float) -> Floats:
    """[draw, batch] tokens/s per chip."""
    return served.requests_per_s_per_chip * tokens


def _decode_rate(
    passes: PassModel, plan: ReplicaPlan, sequences: Floats, tpot_s: float
) -> ServingRate:
    """Of the batch that is given, or of the largest that keeps the limit."""
    spec = passes.spec
    nominal = decoded(passes, plan, sequences)
    is_allowed = nominal.tpot_s[0] <= tpot_s
    rates = np.where(is_allowed, _rate(nominal, spec.output_tokens)[0], 0.0)
    index = int(np.argmax(rates)) if is_allowed.any() else 0
    value = float(_rate(nominal, spec.output_tokens)[0, index])
    draws = Draws.of()
    factors = draws.factors(passes, plan, deviations(passes, nominal, index))
    drawn = decoded(passes, plan, sequences, factors)
    best = np.where(drawn.tpot_s <= tpot_s, _rate(drawn, spec.output_tokens), 0.0).max(axis=1)
    best = np.where(best > 0, best, _rate(drawn, spec.output_tokens)[:, 0])
    found = interval(value, best)
    return ServingRate(value=found.value, low=found.low, high=found.high)


def _prefill_rate(passes: PassModel, plan: ReplicaPlan, prompts: Floats) -> ServingRate:
    """Of full passes one after the other, prompts that are cached counted."""
    spec, busy = passes.spec, np.ones(1)
    nominal = prefilled(passes, plan, prompts, utilizations=busy)
    index = int(np.argmax(nominal.requests_per_s[0]))
    draws = Draws.of()
    factors = draws.factors(passes, plan, deviations(passes, nominal, index))
    drawn = prefilled(passes, plan, prompts[index : index + 1], factors, busy)
    value = float(_rate(nominal, spec.input_tokens)[0, index])
    found = interval(value, _rate(drawn, spec.input_tokens)[:, 0])
    return ServingRate(value=found.value, low=found.low, high=found.high)


def predict_rate(
    chip: ChipSpec,
    cluster: ClusterSpec,
    model: ModelSpec,
    phase: Phase,
    *,
    cost: CostFunction = step_cost,
    chips: int | None = None,
    input_tokens: int = 4096,
    context_tokens: int = 4096,
    batch_per_chip: float | None = None,
    tpot_s: float | None = None,
    tensor: int = 1,
    expert: int | None = None,
    dtype: str = "bf16",
    weight_dtype: str = "",
    cache_dtype: str = "",
    cached_input_share: float = 0.0,
    speculation: Speculation | None = None,
    is_balanced: bool = False,
    calibration: Calibration = NONE,
) -> ServingRate:
    """Tokens/s per chip of one configuration, nothing of it searched but what is not given.

    Args:
        chip: data sheet.
        cluster: the networks that join the chips; no larger than the plan needs.
        model: what is served.
        phase: PREFILL counts prompt tokens, DECODE those generated.
        cost: the least work of a problem.
        chips: of one replica; those beyond tensor and expert groups are stages of a pipeline.
        input_tokens: of a prompt.
        context_tokens: cached of each sequence while it decodes, in the mean.
        batch_per_chip: sequences over the chips that decode; None for the most within `tpot_s`.
        tpot_s: limit on the time per token, where no batch is given.
        tensor: chips that share attention and dense networks.
        expert: chips that share the experts; None for the makers' own deployment.
        dtype: of the model.
        weight_dtype: of the layers' products; empty for the 8 bits of the chip.
        cache_dtype: of the cache; empty for `dtype`.
        cached_input_share: of the prompt that is not computed, though it is counted.
        speculation: tokens that are guessed; none if left out.
        is_balanced: every expert has as many tokens as every other.
        calibration: of which the constants of the chip count.

    Raises:
        PlanError: when the plan does not divide or does not hold the model.
        ConfigError: when a rate that is needed is n/a.
    """
    check_shard(model, Shard(tensor=tensor))
    constants = calibration.constants(chip.name, SERVING_SOFTWARE)
    lookup = Lookup(chip, cost, constants=constants)
    is_decode = phase is Phase.DECODE
    # A sequence that decodes has its mean context throughout: that is what is published.
    spec = settled(
        ServingSpec(
            input_tokens=context_tokens if is_decode else input_tokens,
            output_tokens=1,
            ttft_s=NO_LIMIT_S,
            tpot_s=NO_LIMIT_S if tpot_s is None else tpot_s,
            cached_input_share=cached_input_share,
            dtype=dtype,
            weight_dtype=weight_dtype,
            cache_dtype=cache_dtype,
            speculation=speculation or Speculation(),
        ),
        chip,
        lookup,
    )
    shared = 1
    if model.experts is not None:
        shared = expert if expert is not None else DEPLOYED_EXPERT[phase]
    flat = ReplicaPlan(tensor=tensor, expert=-(-shared // tensor) * tensor if shared > 1 else 1)
    plan = replace(flat, pipeline=max(1, (chips or 1) // flat.num_chips))
    passes = PassModel(model, cluster, lookup, spec, is_balanced=is_balanced)
    if not is_decode:
        prompts = prompts_together(passes)
        if batch_per_chip is not None:
            prompts = np.array([max(1.0, batch_per_chip * tensor)])
        return _prefill_rate(passes, plan, prompts)
    room = room_for(passes, plan, memory_limit(chip, None), DECODE_TOKENS)
    if batch_per_chip is not None:
        # A batch that ran did fit, whatever the count of the memory says.
        return _decode_rate(passes, plan, np.array([batch_per_chip * tensor]), NO_LIMIT_S)
    sequences = most_sequences(passes, plan, room)
    if not len(sequences):
        raise PlanError(
            f"{plan.label} of {model.name} in {spec.weight_dtype} does not fit the memory of "
            f"{chip.name}. Give more chips or another type."
        )
    return _decode_rate(passes, plan, sequences, spec.tpot_s)


def _number(pattern: str, notes: str) -> float | None:
    found = re.search(pattern, notes)
    return None if found is None else float(found.group(1).replace(",", ""))


def _tpot_s(notes: str) -> float | None:
    """A limit or a speed that the notes give."""
    limit = _number(r"([\d.]+) ms TPOT", notes) or _number(r"TPOT ([\d.]+) ms", notes)
    if limit is not None:
        return limit * 1e-3
    speed = re.search(r"([\d.]+)(?:-([\d.]+))? tok/s", notes)
    if speed is None or "output speed" not in notes:
        return None
    low, high = float(speed.group(1)), float(speed.group(2) or speed.group(1))
    return 2 / (low + high)


def predict_published(
    *,
    row_id: str,
    metric: str,
    notes: str,
    precision: str,
    expert: int | None,
    tensor: int | None,
    chip: ChipSpec,
    cluster: ClusterSpec,
    model: ModelSpec,
    pipeline: int | None = None,
    length: int | None = None,
    cost: CostFunction = step_cost,
    calibration: Calibration = NONE,
) -> ServingRate:
    """The rate of a row of published serving, in the unit of its metric.

    Args:
        row_id: of the table, whose beginning names the source.
        metric: one of METRICS.
        notes: of the row; batch, limits and hits of the cache are read from them.
        precision: of the row; names the type of the layers' products.
        expert: ranks that share the experts; None where it is not said.
        tensor: chips that share attention; None where it is not said.
        chip: as in `predict_rate`, and the rest as well.
        cluster: the networks.
        model: what is served.
        pipeline: stages; None where it is not said.
        length: tokens of a prompt, or of the cache while decoding, where the row gives them.
        cost: the least work of a problem.
        calibration: of which the constants of the chip count.

    Raises:
        PlanError: when the plan does not hold the model.
        ConfigError: when a rate that is needed is n/a.
    """
    known = next((SOURCES[name] for name in SOURCES if row_id.startswith(name)), UNKNOWN_SOURCE)
    phase = Phase.PREFILL if metric.startswith("prefill") else Phase.DECODE
    batch = _number(r"batch ([\d,]+)", notes)
    tpot_s = _tpot_s(notes)
    hit = _number(r"([\d.]+)% on-disk KV hit", notes)
    context = _number(r"avg KV length ([\d,]+)", notes)
    weight = next((name for name in ("fp8", "int8") if name in precision), "")
    dtype = "fp16" if "fp16" in precision else "bf16"
    shared = None if expert is None else max(1, expert // known.dies_per_chip)
    rate = predict_rate(
        chip,
        cluster,
        model,
        phase,
        cost=cost,
        chips=None if pipeline is None else max(tensor or 1, shared or 1) * pipeline,
        input_tokens=length or known.input_tokens,
        context_tokens=int(context or length or known.context_tokens),
        batch_per_chip=batch if phase is Phase.DECODE else None,
        tpot_s=USUAL_TPOT_S if tpot_s is None else tpot_s,
        tensor=tensor or 1,
        expert=shared,
        dtype=dtype,
        weight_dtype=weight or dtype,
        cached_input_share=0.0 if hit is None else hit / 100,
        speculation=known.speculation if phase is Phase.DECODE else None,
        is_balanced="perfect expert load balance" in notes,
        calibration=calibration,
    )
    return rate.times(NODE_CHIPS) if metric.endswith("per_node") else rate
