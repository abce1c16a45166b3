"""How many rows each expert of a mixture gets, for the problems that depend on it.

The counts follow from the problem alone, so that its cost is exact; only which expert gets which
count is drawn.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch


@cache
def row_counts(variant: str, R: int, E: int) -> tuple[int, ...]:
    """Rows of each of E experts, most first; they sum to R.

    `uniform` differs by at most one row. `zipf` gives the expert of rank i a share proportional to
    1 / i, apportioned by largest remainders. `one_hot` gives half of all rows, rounded up, to one
    expert, the most that one can get where each token picks two; the others share the rest.
    """
    if variant == "uniform" or E == 1:
        return _even(R, E)
    if variant == "one_hot":
        hot = -(-R // 2)
        return (hot, *_even(R - hot, E - 1))
    assert variant == "zipf", variant
    # Integers throughout: 1 / i is (multiple / i) of one common denominator.
    multiple = math.lcm(*range(1, E + 1))
    shares = [R * (multiple // rank) for rank in range(1, E + 1)]
    denominator = sum(multiple // rank for rank in range(1, E + 1))
    counts = [share // denominator for share in shares]
    by_remainder = sorted(range(E), key=lambda i: (-(shares[i] % denominator), i))
    for i in by_remainder[: R - sum(counts)]:
        counts[i] += 1
    return tuple(sorted(counts, reverse=True))


def _even(R: int, E: int) -> tuple[int, ...]:
    return tuple(R // E + (rank < R % E) for rank in range(E))


def draw_choices(T: int, E: int, K: int, generator: torch.Generator) -> torch.Tensor:
    """routing[T,E] fp32, of which the K largest of each token give every expert as many tokens.

    A token's experts are neighbours, which lie in two groups of experts unless K is longer than
    one, and no rounding exchanges them with others: they are 2 to 3, the others -3 to -2.
    """
    if K > E:
        raise ValueError(f"a token cannot choose K={K} of E={E} experts.")
    device = generator.device
    starts = torch.randperm(T, generator=generator, device=device) * K
    chosen = (starts[:, None] + torch.arange(K, device=device)) % E
    below = torch.rand(T, E, generator=generator, device=device).sub_(3)
    return below.scatter_add_(1, chosen, torch.full((T, K), 5.0, device=device))


def draw_offsets(counts: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """offsets[E+1] int32: the rows of expert e are offsets[e] to offsets[e+1], counts shuffled."""
    device = generator.device
    order = torch.randperm(len(counts), generator=generator, device=device)
    shuffled = torch.tensor(counts, device=device)[order]
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int32, device=device)
    offsets[1:] = shuffled.cumsum(0)
    return offsets
