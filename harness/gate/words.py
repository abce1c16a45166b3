"""Changes and tolerances as people read them."""

from harness.projection import Interval
from harness.units import significant


def percent(share: float) -> str:
    """`3 %`, `0.45 %`: a share without a sign."""
    return f"{float(significant(100 * share, 2)):g} %"


def signed(change: float) -> str:
    """`+6.2 %`, `-1.4 %`."""
    return f"{100 * change:+.1f} %"


def with_interval(change: Interval) -> str:
    """`+6.2 % [+5.1, +7.4]`."""
    return f"{signed(change.value)} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
