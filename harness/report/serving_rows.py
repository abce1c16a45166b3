"""A projection of serving as names and texts, the same for the terminal and the page."""

from harness.projection import Interval
from harness.report.rows import NOT_AVAILABLE, percent_text
from harness.serving_projection import (
    PoolRole,
    ServingPoint,
    ServingPool,
    ServingProjection,
)
from harness.units import capacity, duration, energy, significant, with_prefix

POOL_HEADS = ("pool", "plan", "replicas", "sequences", "pass", "busy", "requests/s")
NUM_TEXTS = 2
"""Columns of POOL_HEADS, and of FRONT_HEADS, that are texts and not numbers."""
FRONT_HEADS = ("plans", "mode", "tokens/s per user", "tokens/s per chip", "sequences per chip")
ROLES = {
    PoolRole.BOTH: "reads and decodes",
    PoolRole.PREFILL: "reads prompts",
    PoolRole.DECODE: "decodes",
}


def rate_text(interval: Interval) -> str:
    """A rate with its P10 and P90: `1.28 ktokens/s (650 tokens/s to 1.66 ktokens/s)`."""
    value, low, high = (
        with_prefix(one, "tokens/s") for one in (interval.value, interval.low, interval.high)
    )
    return f"{value} ({low} to {high})"


def number_text(interval: Interval) -> str:
    """A number with its P10 and P90: `21.3 (15.1 to 26.9)`."""
    value, low, high = (significant(one) for one in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def cost_text(point: ServingPoint) -> str:
    """What a million tokens cost with its P10 and P90: `USD 21.3 (15.1 to 26.9)`."""
    found = point.cost_per_million_tokens
    if found is None:
        return f"{NOT_AVAILABLE}: no price is known"
    return f"{point.currency} {number_text(found)}".lstrip()


def time_text(interval: Interval) -> str:
    """A time with its P10 and P90."""
    value, low, high = (duration(one) for one in (interval.value, interval.low, interval.high))
    return f"{value} ({low} to {high})"


def energy_text(point: ServingPoint) -> str:
    """Joules of a token with their P10 and P90, and the tokens of a joule."""
    found = point.joules_per_token
    if found is None or point.tokens_per_joule is None:
        return f"{NOT_AVAILABLE}: the chip's power is not known"
    value, low, high = (energy(one) for one in (found.value, found.low, found.high))
    return f"{value} ({low} to {high}), {significant(point.tokens_per_joule)} tokens/J"


def pool_row(pool: ServingPool) -> tuple[str, ...]:
    """A pool in the order of POOL_HEADS."""
    chunk = f", chunks of {pool.chunk_tokens:,}" if pool.role is PoolRole.BOTH else ""
    busy = NOT_AVAILABLE if pool.role is PoolRole.DECODE else percent_text(pool.utilization)
    return (
        ROLES[pool.role],
        f"{pool.plan.label}{chunk}",
        f"{pool.num_replicas:,}",
        f"{pool.sequences:,}",
        duration(pool.pass_s),
        busy,
        significant(pool.requests_per_s),
    )


def point_facts(point: ServingPoint) -> tuple[tuple[str, str], ...]:
    """What comes out of one way to run the cluster."""
    return (
        ("output of the cluster", rate_text(point.tokens_per_s)),
        ("output per chip", rate_text(point.tokens_per_s_per_chip)),
        ("output per replica", rate_text(point.tokens_per_s_per_replica)),
        ("prompts taken in", with_prefix(point.input_tokens_per_s, "tokens/s")),
        ("time to the first token", time_text(point.ttft_s)),
        ("time per output token", time_text(point.tpot_s)),
        ("energy per output token", energy_text(point)),
        ("cost per million tokens", cost_text(point)),
        ("what binds", point.bound_by),
    )


def serving_facts(projection: ServingProjection) -> tuple[tuple[str, str], ...]:
    """The projection as names and values, most wanted first."""
    best = projection.best
    sources = ", ".join(
        f"{percent_text(share)} {source}" for source, share in projection.source_share
    )
    others = tuple(
        (f"{other.mode}, instead", rate_text(other.tokens_per_s)) for other in projection.others
    )
    shares = ", ".join(
        f"{significant(100 * share, 2)} % {name}" for name, share in projection.variance_shares
    )
    memory = ", ".join(f"{name} {capacity(size)}" for name, size in best.pools[-1].memory_parts)
    return (
        ("requests", _requests_text(projection)),
        (
            "limits",
            f"{duration(projection.ttft_limit_s)} to the first token, "
            f"{duration(projection.tpot_limit_s)} per token",
        ),
        (
            "mode",
            f"{best.mode} (best of {projection.num_plans_considered:,} plans and loads)",
        ),
        *point_facts(best),
        *others,
        ("types", f"layers {projection.weight_dtype}, cache {projection.cache_dtype}"),
        ("cache", f"{projection.cache_bytes_per_token / 1e3:.3g} kB per token"),
        ("memory per chip", f"{memory} of {capacity(projection.memory_limit_bytes)}"),
        ("compute time from", sources or NOT_AVAILABLE),
        ("interval", projection.interval_basis),
        ("its variance", shares or NOT_AVAILABLE),
    )


def _requests_text(projection: ServingProjection) -> str:
    text = f"{projection.input_tokens:,} tokens in, {projection.output_tokens:,} out"
    if projection.tokens_per_pass > 1:
        text += f", {significant(projection.tokens_per_pass)} tokens per pass"
    return text
