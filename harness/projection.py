"""Projection: what a cluster of a chip is expected to do; the result as data, without the model."""

import math
from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Where a time comes from, best first."""

    MEASURED = "measured"
    """This very problem was measured on this chip."""
    INTERPOLATED = "interpolated"
    """From the same op at other sizes on this chip, all of its axes within the measured ones."""
    EXTRAPOLATED = "extrapolated"
    """The same, with an axis beyond the measured sizes; its interval widens with the distance."""
    ROOFLINE = "roofline"
    """From the chip's rates: measured roofs where there are, else data sheet and published."""
    NETWORK = "network"
    """From the latency and bandwidth of the network tiers."""
    MODEL = "model"
    """Bubble, jitter and other parts that follow from the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number with the interval it lies in at the stated confidence."""

    value: float
    low: float
    high: float


def product(*factors: Interval) -> Interval:
    """The product of independent positive numbers; squares of logarithms add."""
    value = math.prod(one.value for one in factors)
    low = math.hypot(*(math.log(one.value / one.low) for one in factors))
    high = math.hypot(*(math.log(one.high / one.value) for one in factors))
    return Interval(value=value, low=value * math.exp(-low), high=value * math.exp(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChoice:
    """The parallel plan of a projection; the product of the degrees is the chips it uses."""

    tensor: int
    pipeline: int
    data: int
    expert: int = 1
    context: int = 1
    context_exchange: str = "gather"
    """How the chips of a sequence come by each other's keys and values: `gather`, `ring` or
    `all_to_all`; nothing where there is one."""
    virtual_stages: int = 1
    microbatch_size: int = 1
    num_microbatches: int = 1
    zero_stage: int = 1
    shard_group: int = 0
    """Chips of the data and context groups that share states by ZeRO, with replicas of what they
    share outside; 0 is all of them."""
    recompute: str = "none"
    schedule: str = "1f1b"
    """Of the pipeline; `1f1b` with several virtual stages is the interleaved one."""
    layers_per_stage: tuple[int, ...] = ()
    """Of each stage along the model where the plan sets them; empty is as equal as possible."""

    @property
    def num_chips(self) -> int:
        """Chips the plan occupies; experts live inside the data-parallel group."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def label(self) -> str:
        """For people: `TP8 PP16 DP781 VP4 ZeRO-1 11x microbatch 1`."""
        parts = [f"TP{self.tensor}", f"PP{self.pipeline}", f"DP{self.data}"]
        if self.context > 1:
            parts.append(f"CP{self.context}")
            if self.context_exchange != "gather":
                parts.append(self.context_exchange)
        if self.expert > 1:
            parts.append(f"EP{self.expert}")
        if self.virtual_stages > 1:
            parts.append(f"VP{self.virtual_stages}")
        if self.schedule != "1f1b":
            parts.append(self.schedule)
        if self.layers_per_stage:
            parts.append("layers " + "-".join(str(count) for count in self.layers_per_stage))
        parts.append(f"ZeRO-{self.zero_stage}")
        if self.shard_group:
            parts.append(f"over {self.shard_group}")
        parts.append(f"{self.num_microbatches}x microbatch {self.microbatch_size}")
        if self.recompute != "none":
            parts.append(f"recompute {self.recompute}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPart:
    """A named part of one training step; the parts add up to the step."""

    name: str
    """compute, exposed tensor-parallel communication, pipeline bubble ..."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpShare:
    """What one op contributes to the compute of a step, and where its time comes from."""

    op: str
    """Problem name without sizes, as `gemm.bf16.forward`."""
    role: str
    """What it is in the model: `attention qkv`, `mlp down`, `optimizer` ..."""
    seconds: float
    source: Source
    problem_id: str


TIE = 0.01
"""Plans within this share of the best are equal as far as the model can tell: one plan on two
clouds differed by 1.6 % (MLPerf Training v3.1, GPT-3 on 10,752 H100)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """The best plan of another kind than the one chosen.

    Plans are of one kind when they have the same tensor, pipeline, context and expert degrees,
    ZeRO stage and group, and recomputation.
    """

    plan: PlanChoice
    step_time_s: float
    tokens_per_second: float
    slower: float
    """Of the chosen plan's tokens per second, the share that this one lacks."""
    is_tie: bool
    """Slower by less than the model can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSummary:
    """Why the plan is the one it is: what else there was, and what holds it back."""

    num_enumerated: int
    """Plans that cut the model and the cluster evenly, within the bounds of the search."""
    num_fitting: int
    """Of these, the ones that fit the memory."""
    num_tied_kinds: int
    """Other kinds of plan that are as fast as far as the model can tell."""
    alternatives: tuple[Alternative, ...]
    """The fastest of other kinds, best first."""
    largest_part: str
    """The part of the step other than computation that takes longest; empty where none does."""
    largest_part_share: float
    """Of the step."""
    double_batch_gain: float
    """Tokens per second gained if the same plan had twice the microbatches, as a share."""

    @property
    def share_dropped_by_memory(self) -> float:
        """Of the plans enumerated, those that do not fit."""
        return 1 - self.num_fitting / self.num_enumerated


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """An input of the projection: its share of the interval, and the step at its ends."""

    name: str
    title: str
    """What it is, for people."""
    advice: str
    """What to measure so that its interval shrinks."""
    share: float
    """Of the variance of the logarithm of the step time."""
    low_s: float
    """The step with this input alone at the end of its P10 to P90 that makes it short."""
    high_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """What is left of the wall time and what takes the rest; both add up to 1."""

    share: float
    losses: tuple[tuple[str, float], ...]
    """Checkpoints, work done again, coming back from failures ... as shares of the wall time."""
    interruption_s: float
    """Mean time between interruptions of the job."""
    checkpoint_interval_s: float
    """Work between two checkpoints."""
    checkpoint_s: float
    """What a checkpoint keeps the chips from training."""
    checkpoint_behind_s: float
    """What is written while training goes on."""
    recovery_s: float
    """Expected time from a failure to the first new step."""
    is_elastic: bool = False
    hosts_in_repair: float | None = None
    """On average; None where spares are not modelled, as the three below."""
    spare_hosts: int | None = None
    spare_hosts_needed: int | None = None
    """For 99.9 % of the time."""
    shortage_share: float = 0.0
    """Share of the time in which more hosts are away than there are spares."""
    interval: Interval | None = None
    """Of the share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyUse:
    """Power and energy of a cluster while it trains, and what they cost.

    Power is a mean over steps; energy and cost are of the wall time, failures and all.
    """

    chip_w: float
    """One chip in use; of a mixed cluster their mean, and so of the limit."""
    chip_limit_w: float
    clock_factor: float
    """Clock under the power limit over the clock without; 1 where nothing limits it."""
    parts: tuple[tuple[str, float], ...]
    """Watts of the whole site by what draws them; they add up to `site_w`."""
    machines_w: float
    """Everything but cooling and conversion of the building."""
    site_w: float
    peak_site_w: float
    """While all chips compute."""
    swing_w: float
    """From the peak to where all chips wait, as at the end of a step; of the machines."""
    joules_per_token: float
    """At the site's meter, over the wall time."""
    kwh_per_million_tokens: float
    rack_w: float | None = None
    """A rack of chips in use with their hosts; of several kinds the one that draws most."""
    num_measured_cases: int = 0
    """Cases whose measured energy the chip's constants fit; 0 where the data sheet gives them."""
    currency: str = ""
    cost_per_hour: float | None = None
    cost_per_million_tokens: float | None = None
    joules_per_token_interval: Interval | None = None
    cost_per_million_tokens_interval: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEfficiency:
    """What a large batch costs in tokens, by its critical size."""

    batch_tokens: float
    critical_tokens: float
    """At which twice the tokens are needed for the same loss."""
    share: float
    """Progress per token over that of a small batch."""
    basis: str
    """Where the critical size is from, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A whole training run of so many tokens."""

    tokens: float
    seconds: float
    """Wall time, failures and all."""
    energy_kwh: float | None = None
    cost: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IslandShare:
    """What one island of a mixed cluster does of each step."""

    cluster: str
    chip: str
    num_chips: int
    plan: PlanChoice
    sequences: int
    """Of the common global batch."""
    step_time_s: float
    """Of the island alone, before it waits for the others."""
    tokens_per_second: float
    """Its part of the cluster's."""
    mfu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePoint:
    """The best plan found at one number of chips."""

    num_chips: int
    """Chips of the cluster, idle ones included."""
    num_chips_used: int
    plan: PlanChoice
    global_batch_sequences: int
    step_time_s: Interval
    tokens_per_second: Interval
    mfu: float | None
    """Model FLOPs over the dense peak of the chips used; None when the peak is unknown."""
    goodput: float
    """Share of wall time left after failures, restarts and checkpoints."""
    wall_time: Goodput | None = None
    """The same, taken apart."""
    energy: EnergyUse | None = None
    """None where the cluster's file has no power, or nobody knows that of the chip."""
    batch: BatchEfficiency | None = None

    @property
    def useful_tokens_per_second(self) -> float:
        """Throughput times goodput: tokens that stay, per second of the wall clock."""
        return self.tokens_per_second.value * self.goodput

    @property
    def useful_tokens_per_second_interval(self) -> Interval | None:
        """Throughput and goodput err independently: their squares of logarithms add."""
        goodput = None if self.wall_time is None else self.wall_time.interval
        if goodput is None or goodput.low <= 0:
            return None
        return product(self.tokens_per_second, goodput)

    @property
    def effective_tokens_per_second(self) -> float | None:
        """The same in tokens of a small batch; None where the critical size is not known."""
        return None if self.batch is None else self.useful_tokens_per_second * self.batch.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A training step of a model on a cluster, with everything needed to doubt it."""

    model: str
    chip: str
    cluster: str
    dtype: str
    sequence_length: int
    headline: ScalePoint
    """At the number of chips that was asked for."""
    scaling: tuple[ScalePoint, ...]
    """From few chips to many, each with its own best plan."""
    parts: tuple[StepPart, ...]
    """The headline's step, taken apart; adds up to its step time."""
    ops: tuple[OpShare, ...]
    """The compute of one microbatch and of the optimizer on one chip, by op, longest first."""
    source_share: tuple[tuple[Source, float], ...]
    """Share of the compute time that comes from each source."""
    memory_bytes_per_chip: float
    memory_limit_bytes: float
    memory_parts: tuple[tuple[str, float], ...]
    """Weights, gradients, optimizer, activations ... in bytes per chip."""
    mfu: float | None
    hfu: float | None
    """Like MFU with recomputed FLOPs counted."""
    interval_confidence: float
    interval_basis: str
    """What the interval is made of, in a sentence."""
    assumptions: tuple[str, ...]
    """Everything taken on trust, one sentence each."""
    num_plans_considered: int
    search: SearchSummary | None = None
    """How the headline's plan was found; None in files from before it was kept."""
    linear_dtype: str = ""
    """Type in which layers multiply by their weights where it is another one."""
    software: str = ""
    """The generation of training software whose constants hold; empty for their priors."""
    causes: tuple[Cause, ...] = ()
    """What the headline's interval is made of, the largest share first."""
    run_ids: tuple[str, ...] = ()
    """The runs whose measurements were used."""
    islands: tuple[IslandShare, ...] = ()
    """Of a mixed cluster; the parts, ops and memory are those of its slowest island."""
    training_run: TrainingRun | None = None
    """None where no number of tokens was asked for."""
