"""The constants drawn many times, and what comes out of the same model each time.

A draw multiplies each cause of the seconds (`times.Cause`): the rates of the ops by their own
intervals, network, latency, launches and load of the experts by their priors, and all of them by
the model's own error. Everything is one array over the draws.
"""

from dataclasses import dataclass

import numpy as np

from harness.extrapolate.lookup import CONFIDENCE_SIGMAS
from harness.extrapolate.priors import COLLECTIVE_BASE_S, Prior
from harness.extrapolate.serving.pools import Served, decoded, mixed, prefilled
from harness.extrapolate.serving.priors import (
    EXPERT_LOAD,
    GRAPH_KERNEL_S,
    MODEL_ERROR,
    NETWORK_EFFICIENCY,
    POWER_SHARE_OF_HOST,
    POWER_USAGE_EFFECTIVENESS,
    ROUTER_IMBALANCE,
    SAMPLES,
    SEED,
)
from harness.extrapolate.serving.schedule import Floats, joined_rate
from harness.extrapolate.serving.search import Found
from harness.extrapolate.serving.times import Cause, PassModel
from harness.projection import Interval
from harness.serving_projection import ReplicaPlan, ServingMode

LOW, HIGH = 10, 90
"""Percentiles."""


def _ratio(normal: Floats, prior: Prior) -> Floats:
    ratio: Floats = np.exp(normal * np.log(prior.spread) / CONFIDENCE_SIGMAS)
    return ratio


CONSTANTS = (
    "matrix rates of the ops",
    "memory rates of the ops",
    "launches",
    "network bandwidth",
    "network latency",
    "load of the experts",
    "the model's own error",
    "imbalance of the routers",
    "power of hosts",
    "power of the site",
)
"""What each column of the draws is of."""
REST = "their interplay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Standard normal numbers for every constant; pools that are compared share them."""

    normal: Floats
    """[draw, constant]"""

    @classmethod
    def of(cls, samples: int = SAMPLES) -> "Draws":
        """The same ones each time."""
        return cls(normal=np.random.default_rng(SEED).standard_normal((samples, len(CONSTANTS))))

    def factors(self, passes: PassModel, plan: ReplicaPlan, deviations: Floats) -> Floats:
        """[draw, cause] of a replica whose ops have these deviations of their logarithm."""
        z = self.normal
        load = passes.expert_load(plan)
        busier = (1 + (load - 1) * _ratio(z[:, 5], EXPERT_LOAD)) / load
        network = _ratio(z[:, 3], NETWORK_EFFICIENCY)
        factors = np.empty((len(z), len(Cause)))
        factors[:, Cause.MATRIX] = np.exp(z[:, 0] * deviations[Cause.MATRIX])
        factors[:, Cause.MEMORY] = np.exp(z[:, 1] * deviations[Cause.MEMORY])
        # Products of the experts err with the others, as they are of one library.
        factors[:, Cause.EXPERT] = np.exp(z[:, 0] * deviations[Cause.EXPERT]) * busier
        factors[:, Cause.LAUNCH] = _ratio(z[:, 2], GRAPH_KERNEL_S)
        factors[:, Cause.BANDWIDTH] = network
        factors[:, Cause.EXPERT_BANDWIDTH] = network * busier
        factors[:, Cause.LATENCY] = _ratio(z[:, 4], COLLECTIVE_BASE_S)
        return factors * _ratio(z[:, 6], MODEL_ERROR)[:, None]

    @property
    def left_by_routers(self) -> Floats:
        """[draw] share of a cluster's rate that the imbalance of requests leaves."""
        return 1 - np.minimum(
            0.9, ROUTER_IMBALANCE.value * _ratio(self.normal[:, 7], ROUTER_IMBALANCE)
        )

    def power(self, host_share: float) -> Floats:
        """[draw] watts over their nominal value, where hosts draw that share of a chip's."""
        share = host_share * _ratio(self.normal[:, 8], POWER_SHARE_OF_HOST)
        spent = _ratio(self.normal[:, 9], POWER_USAGE_EFFECTIVENESS)
        return (1 + share) / (1 + host_share) * spent


def deviations(passes: PassModel, served: Served, index: int) -> Floats:
    """[cause] deviation of the logarithm of each cause; ops of a cause err together."""
    plan, load = served.plan, served.load
    at = slice(index, index + 1)
    tables = [(passes.layer(plan, kind, load.phase), load.tokens[at]) for kind in passes.kinds]
    for kind in passes.kinds:
        if load.decoding.any():
            tables.append((passes.decode_core(plan, kind), load.decoding[at]))
        if load.chunk:
            tables.append((passes.prefill_core(plan, kind, load.chunk), load.prompts[at]))
    seconds = sum(table.at(tokens)[:, 0] for table, tokens in tables)
    spread = sum(table.deviations(tokens)[:, 0] for table, tokens in tables)
    return np.where(seconds > 0, spread / np.maximum(seconds, 1e-30), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """[draw] of one way to run the cluster."""

    ttft_s: Floats
    tpot_s: Floats
    rate_per_chip: Floats
    """Requests/s per chip of all pools, in balance."""


def _again(passes: PassModel, served: Served, draws: Draws, index: int, *, fixed: bool) -> Served:
    """The same replica under each draw: with that load alone, or with all of them."""
    factors = draws.factors(passes, served.plan, deviations(passes, served, index))
    load = served.load
    at = slice(index, index + 1) if fixed else slice(None)
    if not load.decoding.any():
        # Loads of prefill are pairs of prompts and utilization; the prompts stay.
        together = load.prompts[index : index + 1]
        if fixed:
            return prefilled(
                passes, served.plan, together, factors, served.utilization[0, index : index + 1]
            )
        return prefilled(passes, served.plan, together, factors)
    if load.chunk:
        return mixed(passes, served.plan, load.decoding[at], load.chunk, factors)
    return decoded(passes, served.plan, load.decoding[at], factors)


def _best_rates(served: Served, ttft_s: float, tpot_s: float) -> Floats:
    """[draw] the most requests/s per chip within the limits; where nothing is, the quickest."""
    is_allowed = (served.ttft_s <= ttft_s) & (served.tpot_s <= tpot_s)
    rates = np.where(is_allowed, served.requests_per_s_per_chip, 0.0)
    quickest = served.requests_per_s_per_chip[:, 0]
    best: Floats = rates.max(axis=1)
    return np.where(best > 0, best, quickest)


def drawn(passes: PassModel, found: Found, draws: Draws, *, fixed_load: bool = False) -> Drawn:
    """Times at the load that was found; the rate at the best load of each draw, or at that one.

    Args:
        passes: the times of passes.
        found: replicas and their loads.
        draws: of the constants.
        fixed_load: keep the load for the rate as well, as on the Pareto front.
    """
    spec = passes.spec
    kept = _again(passes, found.decode.served, draws, found.decode.index, fixed=True)
    loads = kept
    limit = np.inf if fixed_load else spec.tpot_s
    if not fixed_load:
        loads = _again(passes, found.decode.served, draws, found.decode.index, fixed=False)
    first_limit = spec.ttft_s if found.mode is ServingMode.AGGREGATED else np.inf
    rate = _best_rates(loads, np.inf if fixed_load else first_limit, limit)
    ttft = kept.ttft_s[:, 0]
    if found.prefill is not None:
        index = found.prefill.index
        read = _again(passes, found.prefill.served, draws, index, fixed=True)
        ttft = read.ttft_s[:, 0]
        reads = _again(passes, found.prefill.served, draws, index, fixed=False)
        rate = joined_rate(_best_rates(reads, spec.ttft_s, np.inf), rate)
    return Drawn(ttft_s=ttft, tpot_s=kept.tpot_s[:, 0], rate_per_chip=rate)


def variance_shares(draws: Draws, rate: Floats) -> tuple[tuple[str, float], ...]:
    """Share of the variance of the rate's logarithm that follows each constant, largest first.

    The constants are independent, so the squares of their correlations add up to at most 1; what
    is left is their interplay.

    Source: first-order indices of Sobol in the linear case; Saltelli et al., Global Sensitivity
    Analysis (2008), section 1.2.
    """
    logarithm = np.log(np.maximum(rate, 1e-30))
    if not np.ptp(logarithm):
        return ()
    shares = [
        (name, float(np.corrcoef(column, logarithm)[0, 1]) ** 2)
        for name, column in zip(CONSTANTS, draws.normal.T, strict=True)
    ]
    # A constant that does nothing is correlated by chance, with 1 / draws in the mean.
    kept = [(name, share) for name, share in shares if share > 4 / len(logarithm)]
    rest = max(0.0, 1 - sum(share for _, share in kept))
    return (*sorted(kept, key=lambda entry: -entry[1]), (REST, rest))


def interval(value: float, samples: Floats) -> Interval:
    """The value with P10 and P90 of the draws, which may not exclude it."""
    finite = np.where(np.isfinite(samples), samples, np.nanmax(samples[np.isfinite(samples)]))
    low, high = np.percentile(finite, [LOW, HIGH])
    return Interval(value=value, low=min(value, float(low)), high=max(value, float(high)))
