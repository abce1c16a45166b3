"""ServingProjection: what a cluster is expected to serve; the result as data, without the model."""

from dataclasses import dataclass
from enum import StrEnum

from harness.projection import Interval, OpShare, Source, StepPart
from harness.units import duration, with_prefix


class ServingMode(StrEnum):
    """Where prompts are read and where tokens are generated."""

    AGGREGATED = "aggregated"
    """On the same chips: chunks of prompts ride along with the tokens generated."""
    DISAGGREGATED = "disaggregated"
    """On chips of their own, with the cache sent from one to the other."""


class PoolRole(StrEnum):
    """What the replicas of a pool do."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPlan:
    """How one replica of a model is spread over chips."""

    tensor: int = 1
    """Chips that share each matrix of attention, dense networks and shared experts."""
    pipeline: int = 1
    expert: int = 1
    """Chips that share the experts of a layer; attention is replicated over them in groups of
    `tensor`, each with sequences of its own. 1 where the model has none."""

    @property
    def data(self) -> int:
        """Attention groups that share the experts."""
        return max(1, self.expert // self.tensor)

    @property
    def num_chips(self) -> int:
        """Chips of one replica."""
        return max(self.tensor, self.expert) * self.pipeline

    @property
    def label(self) -> str:
        """For people: `TP1 DP32 EP32`."""
        parts = [f"TP{self.tensor}"]
        if self.pipeline > 1:
            parts.append(f"PP{self.pipeline}")
        if self.data > 1:
            parts.append(f"DP{self.data}")
        if self.expert > 1:
            parts.append(f"EP{self.expert}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPool:
    """Equal replicas and what each of them does."""

    role: PoolRole
    plan: ReplicaPlan
    num_replicas: int
    sequences: int
    """Of a replica: in flight while decoding, or read at once in prefill."""
    chunk_tokens: int
    """Of a prompt, with each pass; 0 where prompts are not cut or not read."""
    pass_s: float
    """One pass over all layers: an iteration, or the prefill of what is read at once."""
    utilization: float
    """Share of the time in which prompts are being read; 1 where none are."""
    requests_per_s: float
    """Of one replica."""
    memory_parts: tuple[tuple[str, float], ...]
    """Bytes per chip: weights, work space, cache ..."""
    cache_capacity_tokens: float
    """Tokens of cache that fit one attention group of the replica."""
    parts: tuple[StepPart, ...]
    """A pass over the slowest stage, taken apart; adds up to what one stage takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPoint:
    """One way to run the cluster, and what comes out."""

    mode: ServingMode
    pools: tuple[ServingPool, ...]
    ttft_s: Interval
    """Mean time to the first token: queue, prefill and, where it is sent, the cache."""
    tpot_s: Interval
    """Mean time per output token of one user."""
    tokens_per_s_per_replica: Interval
    """Output tokens of one replica; of a disaggregated one, with the prefill chips it needs."""
    tokens_per_s_per_chip: Interval
    """Output tokens, over the chips of all pools."""
    tokens_per_s: Interval
    """Output tokens of the cluster, after imbalance of the routers and replicas that are down."""
    input_tokens_per_s: float
    """Prompt tokens that the cluster takes in beside them, those already cached included."""
    joules_per_token: Interval | None
    """Of the whole site per output token; None where the chip's power is n/a."""
    cost_per_million_tokens: Interval | None
    """In `currency`; None where no price is given."""
    bound_by: str
    """What keeps it from more: the limit on the tokens' time, the cache ..."""
    currency: str = ""
    """Of the cluster's price; empty where the configuration gives the price."""

    @property
    def tokens_per_joule(self) -> float | None:
        """Output tokens per joule of the whole site."""
        return None if self.joules_per_token is None else 1 / self.joules_per_token.value


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A point of the Pareto front: no other is better in both numbers."""

    tokens_per_s_per_user: Interval
    tokens_per_s_per_chip: Interval
    mode: ServingMode
    label: str
    """The plans, for people."""
    sequences_per_chip: float
    """In flight, over the chips that decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingProjection:
    """Serving a model on a cluster, with everything needed to doubt it."""

    model: str
    chip: str
    cluster: str
    num_chips: int
    weight_dtype: str
    cache_dtype: str
    input_tokens: int
    output_tokens: int
    ttft_limit_s: float
    tpot_limit_s: float
    tokens_per_pass: float
    """Tokens that a pass gives each sequence; above 1 with speculative decoding."""
    cache_bytes_per_token: float
    """Of the whole model."""
    best: ServingPoint
    others: tuple[ServingPoint, ...]
    """The best of the modes that are not the best."""
    front: tuple[FrontPoint, ...]
    """Throughput against interactivity, from many tokens per chip to fast ones."""
    ops: tuple[OpShare, ...]
    """The compute of a pass of each pool of the best point on one chip, longest first."""
    source_share: tuple[tuple[Source, float], ...]
    """Share of that compute time that comes from each source."""
    memory_limit_bytes: float
    interval_basis: str
    variance_shares: tuple[tuple[str, float], ...]
    """Of the rate of the cluster, by the constant that it follows, largest first."""
    assumptions: tuple[str, ...]
    num_plans_considered: int
    """Plans with a number of sequences each."""
    run_ids: tuple[str, ...] = ()


def serving_headline(projection: ServingProjection) -> str:
    """The projection in one plain sentence."""
    best = projection.best
    return (
        f"{projection.model} on {projection.num_chips:,} x {projection.chip}: "
        f"{with_prefix(best.tokens_per_s.value, 'tokens/s')} out, "
        f"{duration(best.tpot_s.value)} per token and {duration(best.ttft_s.value)} to the first."
    )
