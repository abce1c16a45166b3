"""Changes as people read them."""

from harness.projection import Interval
from harness.units import signed_percent


def with_interval(change: Interval) -> str:
    """`+6.2 % [+5.1, +7.4]`."""
    low, high = (signed_percent(end).removesuffix(" %") for end in (change.low, change.high))
    return f"{signed_percent(change.value)} [{low}, {high}]"
