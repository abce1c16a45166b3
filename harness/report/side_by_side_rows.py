"""How projections side by side are written for people, in the terminal and on the page."""

from collections.abc import Callable, Sequence

from harness.projection import Interval
from harness.report.rows import NOT_AVAILABLE, percent_text
from harness.side_by_side import Outcome, Pair, SideBySide, best_of
from harness.units import KILO, MEGA, significant, with_prefix

BEST_MARK = "*"
TOKENS = "tokens/s"
HEADS = ("cluster", TOKENS, "MFU", "goodput", "useful", "MW", "J/token", "per Mtoken")
"""Useful tokens/s are those left after failures; the last is what a million tokens cost."""
JUDGED: tuple[tuple[int, Callable[[Outcome], float | None], bool], ...] = (
    (1, lambda one: one.tokens_per_second.value, True),
    (2, lambda one: one.mfu, True),
    (3, lambda one: one.goodput, True),
    (4, lambda one: one.useful_tokens_per_second.value, True),
    (6, lambda one: one.joules_per_token, False),
    (7, lambda one: one.cost_per_million_tokens, False),
)
"""Columns that have a best, with their value and whether more is better; power alone has none."""
AGAINST_HEADS = ("cluster", "of the best", "P10 to P90", "verdict")


def bounds_text(interval: Interval) -> str:
    """`127 M (58.3-157)`, all three with the prefix of the first."""
    for scale, prefix in ((MEGA, "M"), (KILO, "k"), (1.0, "")):
        if interval.value >= scale or scale == 1.0:
            low, high = (significant(end / scale) for end in (interval.low, interval.high))
            return f"{significant(interval.value / scale)} {prefix} ({low}-{high})"
    raise AssertionError("the last scale takes everything")


def cells(outcome: Outcome) -> tuple[str, ...]:
    """What stands under HEADS, but for the cluster."""
    cost = outcome.cost_per_million_tokens
    return (
        bounds_text(outcome.tokens_per_second),
        percent_text(outcome.mfu),
        percent_text(outcome.goodput),
        with_prefix(outcome.useful_tokens_per_second.value, ""),
        NOT_AVAILABLE if outcome.site_w is None else significant(outcome.site_w / MEGA),
        NOT_AVAILABLE
        if outcome.joules_per_token is None
        else significant(outcome.joules_per_token),
        NOT_AVAILABLE if cost is None else f"{outcome.currency} {significant(cost)}",
    )


def best_columns(pairs: Sequence[Pair]) -> dict[str, frozenset[int]]:
    """The places under HEADS where a cluster is the best of the pairs; none of one alone."""
    outcomes = [(pair.cluster, pair.outcome) for pair in pairs if pair.outcome is not None]
    found: dict[str, set[int]] = {cluster: set() for cluster, _ in outcomes}
    for place, value_of, is_more_better in JUDGED:
        values = [(value_of(outcome), cluster) for cluster, outcome in outcomes]
        known = [(value, cluster) for value, cluster in values if value is not None]
        if len(known) > 1:
            best, _ = max(known) if is_more_better else min(known)
            for value, cluster in known:
                if value == best:
                    found[cluster].add(place)
    return {cluster: frozenset(places) for cluster, places in found.items()}


def verdict(outcome: Outcome) -> str:
    """Whether the cluster is told apart from the best of its model."""
    if outcome.of_best.value == outcome.of_best.low == outcome.of_best.high:
        return "the best"
    told = "told apart" if outcome.is_told_apart else "not told apart"
    return told if outcome.has_common_draws else f"{told}, if independent"


def against_rows(pairs: Sequence[Pair]) -> tuple[tuple[str, ...], ...]:
    """A row under AGAINST_HEADS for each cluster of one model that was projected."""
    return tuple(
        (
            pair.cluster,
            f"{pair.outcome.of_best.value:.2f}",
            f"{pair.outcome.of_best.low:.2f} to {pair.outcome.of_best.high:.2f}",
            verdict(pair.outcome),
        )
        for pair in pairs
        if pair.outcome is not None
    )


def best_sentence(model: str, pairs: Sequence[Pair]) -> str:
    """Which cluster does most, and which ones may do as much."""
    best = best_of(pairs)
    if best is None or best.outcome is None:
        return f"{model}: none of its clusters could be projected."
    tokens = with_prefix(best.outcome.useful_tokens_per_second.value, TOKENS)
    others = [pair for pair in pairs if pair.outcome is not None and pair is not best]
    tied = [pair.cluster for pair in others if pair.outcome and not pair.outcome.is_told_apart]
    if not others:
        return f"{model}: {tokens} useful on {best.cluster}."
    close = f"not told apart from {', '.join(tied)}" if tied else "told apart from all others"
    return f"{model}: most useful tokens on {best.cluster}, {tokens}, {close}."


def confidence_text(outcome: Outcome) -> str:
    """What the projection of a cluster rests on, in one line."""
    sources = ", ".join(f"{percent_text(share)} {source}" for source, share in outcome.source_share)
    chips = (
        f"no published run calibrates {' or '.join(outcome.uncalibrated)}"
        if outcome.uncalibrated
        else "published runs calibrate the rates of the chip"
    )
    software = (
        "published runs calibrate its software"
        if outcome.is_software_calibrated
        else "constants of software are those of other chips, as wide as their priors"
    )
    text = f"{chips}; {software}"
    return f"compute {sources}; {text}"


def price_sentences(compared: SideBySide) -> tuple[str, ...]:
    """What costs are made of, where clusters have prices of different kinds."""
    bases = {
        pair.cluster: pair.outcome.price_basis
        for pair in compared.pairs
        if pair.outcome is not None and pair.outcome.price_basis
    }
    if len(set(bases.values())) < 2:
        return ()
    each = ". ".join(f"{cluster}: {basis}" for cluster, basis in bases.items())
    return (f"Costs are as each cluster's file has them, and rent is not purchase. {each}.",)


NOTE = (
    "P10 to P90 in brackets. * marks the best of a column; useful tokens are those left after "
    "failures. The ratio to the best is of tokens/s, with inputs that both share drawn once: "
    "constants of everything, and of software where chips are of one vendor, with the model's own "
    "error."
)
