"""Seconds of a pass by cause, over all numbers of tokens at once.

Ops are looked up at numbers of tokens that double; between them each cause is interpolated, since
the time of an op is flat or straight in the tokens but for one bend. All that follows is arrays:

    table    [cause, node]            of a layer, of a core, of both ends
    passes   [cause, batch]           the same at any numbers of tokens
    factors  [draw, cause]            1, or what a draw of the constants makes of each cause
    seconds  [draw, batch]
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.lookup import CONFIDENCE_SIGMAS, Lookup, share_of_role
from harness.extrapolate.priors import CONTENTION, FIXED_S_PER_KERNEL
from harness.extrapolate.serving.exchange import (
    Sent,
    expert_exchange,
    stage_exchange,
    tensor_exchange,
)
from harness.extrapolate.serving.memory import Stage, stages
from harness.extrapolate.serving.priors import (
    EAGER_KERNEL_S,
    EXPERT_LOAD,
    GRAPH_KERNEL_S,
    HOST_S_PER_KERNEL,
    HOST_S_PER_PASS,
    MAX_PREFILL_TOKENS,
)
from harness.extrapolate.serving.schedule import Floats
from harness.extrapolate.serving.spec import ServingSpec
from harness.extrapolate.serving.work import (
    decode_core,
    first_items,
    last_items,
    layer_items,
    prefill_core,
)
from harness.projection import Source
from harness.roofline import Bound, Roofline
from harness.serving_projection import ReplicaPlan
from harness.workload.model import ModelSpec
from harness.workload.step import LayerKind, Phase, WorkItem
from kernels.op import Problem

NODES = tuple(2**power for power in range(16))
"""Numbers of tokens at which ops are looked up: 1 to 32,768."""


class Cause(IntEnum):
    """What the seconds of a pass go to; the first four are of the chip, the others of networks."""

    MATRIX = 0
    """Products that the matrix rate bounds, attention among them."""
    MEMORY = 1
    """All that the memory's rate bounds: weights, cache, norms."""
    EXPERT = 2
    """Products of the experts that the matrix rate bounds, on the busiest chip."""
    LAUNCH = 3
    BANDWIDTH = 4
    EXPERT_BANDWIDTH = 5
    """Tokens to their experts and back, of the busiest chip."""
    LATENCY = 6


NUM_CAUSES = len(Cause)
NUM_OF_CHIP = 4
NOMINAL = np.ones((1, NUM_CAUSES))
"""One draw in which every constant has its own value."""

LABELS = {
    Cause.MATRIX: "products at the matrix rate",
    Cause.MEMORY: "weights, cache and activations at the memory rate",
    Cause.EXPERT: "experts' products at the matrix rate, busiest chip",
    Cause.LAUNCH: "launches",
}


def limits(lookup: Lookup) -> Roofline:
    """The measured roof, with the data sheet's rates where no roof was measured."""
    rates = dict(lookup.sheet.flops_per_s) | dict(lookup.roof.flops_per_s)
    bandwidth = lookup.roof.bytes_per_s or lookup.sheet.bytes_per_s
    return Roofline(title="limits", flops_per_s=tuple(rates.items()), bytes_per_s=bandwidth)


@dataclass(slots=True)
class _Sum:
    """Seconds by cause, and how uncertain those of the chip are."""

    seconds: Floats = field(default_factory=lambda: np.zeros(NUM_CAUSES))
    sigma: Floats = field(default_factory=lambda: np.zeros(NUM_CAUSES))
    """Seconds times the standard deviation of their logarithm."""
    kernels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Seconds by cause at NODES, with their spread and the kernels they take."""

    seconds: Floats
    """[cause, node]"""
    sigma: Floats
    """[cause, node], seconds times the deviation of their logarithm."""
    kernels: int

    def at(self, tokens: Floats) -> Floats:
        """[cause, batch] at any numbers of tokens, straight beyond the last node."""
        return _interpolated(self.seconds, tokens)

    def deviations(self, tokens: Floats) -> Floats:
        """[cause, batch] the same of `sigma`."""
        return _interpolated(self.sigma, tokens)


def _interpolated(rows: Floats, tokens: Floats) -> Floats:
    """[cause, batch] of [cause, node]; nodes double, so that the one below is a logarithm."""
    within = np.clip(tokens, NODES[0], NODES[-1])
    below = np.minimum(np.log2(within).astype(np.int64), len(NODES) - 2)
    share = within / np.exp2(below) - 1
    found: Floats = rows[:, below] * (1 - share) + rows[:, below + 1] * share
    scaled: Floats = found * np.maximum(1.0, tokens / NODES[-1])
    return scaled


@dataclass(slots=True)
class PassModel:
    """Times of passes of one model on one cluster; each layer is tabled once per plan's degrees."""

    model: ModelSpec
    cluster: ClusterSpec
    lookup: Lookup
    spec: ServingSpec
    is_balanced: bool = False
    """Every expert has as many tokens as every other."""
    nominal: dict[tuple[object, ...], tuple["PassLoad", Floats]] = field(
        init=False, default_factory=dict
    )
    """Seconds of layers without draws, by the degrees that they depend on."""
    _limits: Roofline = field(init=False)
    _bounds: dict[Problem, Cause] = field(init=False, default_factory=dict)
    _tables: dict[tuple[object, ...], Table] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._limits = limits(self.lookup)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layer that the model has."""
        counts = {
            LayerKind.DENSE: self.model.num_dense_layers,
            LayerKind.MOE: self.model.num_moe_layers,
        }
        return tuple(kind for kind, count in counts.items() if count)

    def expert_load(self, plan: ReplicaPlan) -> float:
        """Load of the busiest chip over the mean."""
        return 1.0 if self.is_balanced or plan.expert == 1 else EXPERT_LOAD.value

    def _bound(self, problem: Problem) -> Cause:
        known = self._bounds.get(problem)
        if known is None:
            bound = self._limits.bound(self.lookup.cost(problem), problem.dtype)
            known = Cause.MATRIX if bound is Bound.MATRIX else Cause.MEMORY
            self._bounds[problem] = known
        return known

    def _added(self, total: _Sum, items: Iterable[WorkItem], load: float) -> None:
        kernel = GRAPH_KERNEL_S if self.spec.has_graphs else EAGER_KERNEL_S
        for item in items:
            time = self.lookup.time(item.problem)
            seconds = time.seconds
            launch = kernel.value
            if time.source is Source.ROOFLINE:
                seconds = max(0.0, seconds - FIXED_S_PER_KERNEL.value)
                seconds /= share_of_role(item, self.lookup.constants)
            cause = self._bound(item.problem)
            if cause is Cause.MATRIX and item.problem.op == "grouped_gemm":
                cause, seconds = Cause.EXPERT, load * seconds
            sigma = np.log(time.high / time.low) / 2 / CONFIDENCE_SIGMAS if time.low > 0 else 0.0
            total.seconds[cause] += item.count * seconds
            total.sigma[cause] += item.count * seconds * sigma
            total.seconds[Cause.LAUNCH] += item.count * launch
            total.kernels += item.count

    def _table(
        self,
        key: tuple[object, ...],
        items: Callable[[int], Sequence[WorkItem]],
        load: float,
        sent: Callable[[int], tuple[Sent, Sent]] | None = None,
    ) -> Table:
        known = self._tables.get(key)
        if known is not None:
            return known
        columns = []
        for tokens in NODES:
            total = _Sum()
            self._added(total, items(tokens), load)
            if sent is not None:
                plain, expert = sent(tokens)
                total.seconds[Cause.BANDWIDTH] += plain.bandwidth
                total.seconds[Cause.EXPERT_BANDWIDTH] += load * expert.bandwidth
                total.seconds[Cause.LATENCY] += plain.latency + expert.latency
            columns.append(total)
        made = self._tables[key] = Table(
            seconds=np.array([column.seconds for column in columns]).T,
            sigma=np.array([column.sigma for column in columns]).T,
            kernels=columns[0].kernels,
        )
        return made

    def layer(self, plan: ReplicaPlan, kind: LayerKind, phase: Phase) -> Table:
        """A layer without attention's core, by tokens of an attention group."""
        model, spec = self.model, self.spec

        def sent(tokens: int) -> tuple[Sent, Sent]:
            expert = Sent()
            if kind is LayerKind.MOE:
                expert = expert_exchange(model, self.cluster, plan, spec, tokens)
            return tensor_exchange(model, self.cluster, plan, spec, kind, tokens), expert

        return self._table(
            ("layer", plan.tensor, plan.expert, kind, phase),
            lambda tokens: layer_items(model, plan, spec, kind, phase, tokens),
            self.expert_load(plan),
            sent,
        )

    def decode_core(self, plan: ReplicaPlan, kind: LayerKind) -> Table:
        """Attention's core of a layer, by sequences that decode."""
        return self._table(
            ("decode core", plan.tensor, kind),
            lambda sequences: decode_core(self.model, plan, self.spec, kind, sequences),
            1.0,
        )

    def prefill_core(self, plan: ReplicaPlan, kind: LayerKind, chunk: int) -> Table:
        """Attention's core of a layer, by prompts that are each given a chunk."""
        return self._table(
            ("prefill core", plan.tensor, kind, chunk),
            lambda prompts: prefill_core(self.model, plan, self.spec, kind, chunk, prompts),
            1.0,
        )

    def first(self, plan: ReplicaPlan) -> Table:
        """What the first stage has beside layers, by tokens."""
        return self._table(
            ("first", plan.tensor),
            lambda tokens: first_items(self.model, plan, self.spec, tokens),
            1.0,
        )

    def last(self, plan: ReplicaPlan) -> Table:
        """What the last stage has beside layers, by positions that are continued."""
        return self._table(
            ("last", plan.tensor),
            lambda rows: last_items(self.model, plan, self.spec, rows),
            1.0,
        )

    def between(self, plan: ReplicaPlan, tokens: Floats) -> Floats:
        """[cause, batch] the message to the next stage."""

        def sent(count: int) -> tuple[Sent, Sent]:
            return stage_exchange(self.model, self.cluster, plan, self.spec, count), Sent()

        key = ("between", plan.tensor, plan.expert, plan.pipeline > 1)
        return self._table(key, lambda _: (), 1.0, sent).at(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassLoad:
    """What each attention group does in a pass, for a batch of choices at once."""

    phase: Phase
    decoding: Floats
    """[batch] sequences that decode."""
    checked: int
    """Tokens of each of them."""
    prompts: Floats
    """[batch] prompts that are given a chunk."""
    chunk: int
    """Tokens of a chunk; 0 where there are none."""

    @property
    def tokens(self) -> Floats:
        """[batch] tokens that go through the matrices."""
        return self.decoding * self.checked + self.prompts * self.chunk

    @property
    def rows(self) -> Floats:
        """[batch] positions that are continued."""
        return np.maximum(1.0, self.decoding * self.checked + (self.prompts if self.chunk else 0))

    def begins(self, other: "PassLoad") -> bool:
        """Whether the choices are the first of another's."""
        size = len(self.decoding)
        return bool(
            np.array_equal(self.decoding, other.decoding[:size])
            and np.array_equal(self.prompts, other.prompts[:size])
        )

    def halved(self) -> "PassLoad":
        """Half of it; a chunk alone is cut in two."""
        return PassLoad(
            phase=self.phase,
            decoding=self.decoding / 2,
            checked=self.checked,
            prompts=self.prompts / 2,
            chunk=self.chunk,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """Seconds of a pass over each stage."""

    slowest_s: Floats
    """[draw, batch] of the slowest stage, its message to the next one included."""
    through_s: Floats
    """[draw, batch] of all stages, one after the other."""


def _of_layer(passes: PassModel, plan: ReplicaPlan, kind: LayerKind, load: PassLoad) -> Floats:
    """[cause, batch] of one layer with its core."""
    seconds = passes.layer(plan, kind, load.phase).at(load.tokens)
    if load.decoding.any():
        core = passes.decode_core(plan, kind).at(np.maximum(load.decoding, 1e-9))
        seconds = seconds + core * _share_of_one(load.decoding)
    if load.chunk:
        core = passes.prefill_core(plan, kind, load.chunk).at(np.maximum(load.prompts, 1e-9))
        seconds = seconds + core * _share_of_one(load.prompts)
    return seconds


def _share_of_one(count: Floats) -> Floats:
    """What is left of the time of one where there is less than one: none of none, half of half."""
    return np.minimum(1.0, count)


def _seconds(factors: Floats, causes: Floats) -> tuple[Floats, Floats]:
    """[draw, batch] of the chip and of the networks."""
    chip = factors[:, :NUM_OF_CHIP] @ causes[:NUM_OF_CHIP]
    network = factors[:, NUM_OF_CHIP:] @ causes[NUM_OF_CHIP:]
    return chip, network


def layer_seconds(
    passes: PassModel, plan: ReplicaPlan, kind: LayerKind, load: PassLoad, factors: Floats
) -> Floats:
    """[draw, batch] of a layer; without draws, replicas with the same layers share their times."""
    if factors is not NOMINAL:
        return _layer_seconds(passes, plan, kind, load, factors)
    key = (plan.tensor, plan.expert, kind, load.phase, load.chunk, bool(load.decoding.any()))
    size = len(load.tokens)
    known = passes.nominal.get(key)
    if known is None or not load.begins(known[0]):
        known = passes.nominal[key] = (
            load,
            _layer_seconds(passes, plan, kind, load, factors),
        )
    return known[1][:, :size]


def _layer_seconds(
    passes: PassModel, plan: ReplicaPlan, kind: LayerKind, load: PassLoad, factors: Floats
) -> Floats:
    """[draw, batch] of a layer.

    Two halves of a batch can take turns, one computing while the other exchanges; computing then
    loses CONTENTION of the time beside which the network works. It pays where the halves together
    do not read the weights for much longer than the whole.

    Source: DeepSeek-V3 (arXiv 2412.19437) section 3.4, two micro-batches in prefill and decode.
    """
    chip, network = _seconds(factors, _of_layer(passes, plan, kind, load))
    serial = chip + network
    if not passes.spec.is_overlapped or plan.expert == 1 or kind is LayerKind.DENSE:
        return serial
    half_chip, half_network = _seconds(factors, _of_layer(passes, plan, kind, load.halved()))
    slowed = half_chip + CONTENTION.value * np.minimum(half_chip, half_network)
    overlapped = np.where(load.tokens >= 2, 2 * np.maximum(slowed, half_network), np.inf)
    found: Floats = np.minimum(serial, overlapped)
    return found


def pass_time(
    passes: PassModel, plan: ReplicaPlan, load: PassLoad, factors: Floats = NOMINAL
) -> PassTime:
    """A pass of each choice of the batch, under each draw."""
    layers = {kind: layer_seconds(passes, plan, kind, load, factors) for kind in passes.kinds}
    first = factors @ passes.first(plan).at(load.tokens)
    last = factors @ passes.last(plan).at(load.rows)
    message = factors @ passes.between(plan, load.tokens)
    host = HOST_S_PER_PASS.value * factors[:, [Cause.LAUNCH]]
    slowest = through = np.zeros_like(first)
    for stage in stages(passes.model, plan.pipeline):
        seconds = stage_seconds(stage, layers, first, last)
        if not passes.spec.has_graphs:
            launched = stage_kernels(passes, plan, stage, load) * HOST_S_PER_KERNEL.value
            seconds = np.maximum(seconds, launched * factors[:, [Cause.LAUNCH]])
        seconds = seconds + message + host
        slowest = np.maximum(slowest, seconds)
        through = through + seconds
    return PassTime(slowest_s=slowest, through_s=through)


def stage_seconds(
    stage: Stage, layers: dict[LayerKind, Floats], first: Floats, last: Floats
) -> Floats:
    """[draw, batch] of the layers of a stage and, at the ends, of embedding and head."""
    seconds = np.zeros_like(first)
    for kind, count in ((LayerKind.DENSE, stage.num_dense), (LayerKind.MOE, stage.num_moe)):
        if count:
            seconds = seconds + count * layers[kind]
    if stage.is_first:
        seconds = seconds + first
    return seconds + last if stage.is_last else seconds


def stage_kernels(passes: PassModel, plan: ReplicaPlan, stage: Stage, load: PassLoad) -> int:
    """Kernels that a pass over a stage launches."""
    count = 0
    for kind, layers in ((LayerKind.DENSE, stage.num_dense), (LayerKind.MOE, stage.num_moe)):
        if layers:
            count += layers * (passes.layer(plan, kind, load.phase).kernels + 1)
    return count


def chunk_of(spec: ServingSpec, most: int = MAX_PREFILL_TOKENS) -> int:
    """Tokens of the largest equal chunks of a prompt that are no more than `most`."""
    num_chunks = -(-spec.new_input_tokens // most)
    return -(-spec.new_input_tokens // num_chunks)
