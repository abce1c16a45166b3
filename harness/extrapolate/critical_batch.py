"""How large a batch may be before its tokens teach less.

With the critical batch B_c, training to a given loss needs

    tokens = least tokens (1 + B / B_c)         steps = least steps (1 + B_c / B)

so that a token is worth 1 / (1 + B / B_c) of one in a small batch. Data parallelism beyond it buys
steps per second with tokens.

Source: McCandlish et al., An Empirical Model of Large-Batch Training (arXiv 1812.06162) section 2,
equations 2.11 and 2.12.
"""

from harness.projection import BatchEfficiency
from harness.units import MEGA, with_prefix

LOSS_COEFFICIENT_TOKENS = 2.1e8
LOSS_EXPONENT = 1 / 0.21
"""B_c = 2.1e8 tokens L^(-1/0.21), L in nats per token.

Source: Kaplan et al. (arXiv 2001.08361) section 5.1, of models up to 1.5 billion parameters.
"""
DATA_COEFFICIENT_SEQUENCES = 22.91
DATA_EXPONENT = 0.47
DATA_SEQUENCE_TOKENS = 512
"""Batch of 20 % more steps than in proportion: 22.91 D^0.47 sequences of 512 tokens, D in millions.

Source: Zhang et al. (arXiv 2410.21676), models of 85 million to 1.2 billion parameters on up to
some 28 billion tokens; that D is in millions is inferred, as only then the batches are those of
their sweep (64 to 8,192 sequences).
"""
DATA_OVERHEAD = 0.2
TOKENS_PER_PARAMETER = 20.0
"""Where nobody says how long is trained.

Source: Hoffmann et al. (arXiv 2203.15556) table 3, about 20 tokens per parameter.
"""


def critical_tokens_of_loss(loss: float) -> float:
    """The critical batch in tokens at a training loss in nats per token."""
    return float(LOSS_COEFFICIENT_TOKENS * loss**-LOSS_EXPONENT)


def critical_tokens_of_data(train_tokens: float) -> float:
    """The critical batch in tokens of a run of so many tokens.

    The source's batch costs 20 % more tokens, which by B/B_c is a fifth of the critical one.
    """
    sequences = DATA_COEFFICIENT_SEQUENCES * (train_tokens / MEGA) ** DATA_EXPONENT
    return float(sequences * DATA_SEQUENCE_TOKENS / DATA_OVERHEAD)


def batch_efficiency(
    batch_tokens: float,
    *,
    num_active_parameters: float,
    train_tokens: float | None = None,
    train_loss: float | None = None,
) -> BatchEfficiency:
    """What a batch of that size leaves of each token's worth.

    A training loss decides if one is given, else the tokens trained on, else 20 for each active
    parameter.
    """
    if train_loss is not None:
        critical = critical_tokens_of_loss(train_loss)
        basis = f"a loss of {train_loss:g} nats per token (Kaplan et al., arXiv 2001.08361)"
    else:
        tokens = train_tokens or TOKENS_PER_PARAMETER * num_active_parameters
        critical = critical_tokens_of_data(tokens)
        why = "" if train_tokens else ", 20 for each active parameter"
        basis = f"{with_prefix(tokens, 'tokens')} trained on{why} (Zhang et al., arXiv 2410.21676)"
    return BatchEfficiency(
        batch_tokens=batch_tokens,
        critical_tokens=critical,
        share=1 / (1 + batch_tokens / critical),
        basis=basis,
    )
