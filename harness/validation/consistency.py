"""Whether the figures of a row belong to one run: what its notes tell beside what it publishes."""

import re

from harness.units import TERA
from harness.validation.cells import UnusableRowError
from harness.validation.metrics import Work
from harness.validation.software import WITHOUT_WEIGHT_GRADIENTS, trains_weights
from harness.workload.model import CausalCount

RATE_TOLERANCE = 0.1
"""Share by which two rates of one row may differ, rounding and medians of other steps included."""
FLOPS_TOLERANCE = 0.3
"""Share beyond the least and the most count of a token's FLOPs; windows, vision towers and heads
of further tokens are counted by some sources and not by others."""
_TOKENS = re.compile(r"tokens/s/(?:device|chip|GPU) ?= ?([\d.]+)")
_TFLOPS = re.compile(r"TFLOPs/(?:device|chip|GPU) ?= ?([\d.]+)")


def check(work: Work, step_time_s: float) -> None:
    """Refuse a row whose notes tell another rate than the one it publishes.

    Raises:
        UnusableRowError: with both numbers.
    """
    notes = work.row["notes"]
    rate = work.tokens / step_time_s / work.num_chips
    tokens, tflops = _TOKENS.search(notes), _TFLOPS.search(notes)
    if tokens and abs(float(tokens[1]) / rate - 1) > RATE_TOLERANCE:
        raise UnusableRowError(
            f"inconsistent: its notes say {tokens[1]} tokens/s per chip, and what it publishes "
            f"means {rate:.4g}"
        )
    if not tflops:
        return
    length = work.parallel.sequence_length
    told = float(tflops[1]) * TERA / rate
    least, most = (
        work.model.model_flops_per_token(length, count)
        for count in (CausalCount.CAUSAL, CausalCount.FULL)
    )
    if not trains_weights(work.row):
        least *= WITHOUT_WEIGHT_GRADIENTS
    if not least * (1 - FLOPS_TOLERANCE) <= told <= most * (1 + FLOPS_TOLERANCE):
        raise UnusableRowError(
            f"inconsistent: its notes say {tflops[1]} TFLOP/s per chip, which are {told:.4g} FLOPs "
            f"per token, and {work.model.title} has {least:.4g} to {most:.4g}"
        )
