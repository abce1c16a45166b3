"""Constants of scale and how quantities are written for people; SI inside, scaled only here.

Tera is 1e12; only memory capacity is counted in powers of two.
"""

import math

KILO = 1e3
MEGA = 1e6
GIGA = 1e9
TERA = 1e12
KIBI = 2**10
MEBI = 2**20
GIBI = 2**30
SECONDS_PER_HOUR = 3600.0

_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL = ((1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def significant(value: float, digits: int = 3) -> str:
    """The value rounded to that many significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = float(f"{value:.{digits - 1}e}")
    # Asked of the rounded value: 99.96 has one digit more before the point than it seems.
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{decimals}f}"


def percent(share: float, digits: int = 2) -> str:
    """`3 %`, `0.45 %`: a share, which has no sign."""
    return f"{float(significant(100 * share, digits)):g} %"


def signed_percent(change: float) -> str:
    """`+6.2 %`, `-1.4 %`, `+760 %`: a share that was added or taken."""
    value = 100 * change
    return f"{value:+.1f} %" if abs(value) < 100 else f"{value:+.0f} %"


def with_prefix(value: float, unit: str, digits: int = 3) -> str:
    """The value with an SI prefix: `with_prefix(1.23e13, "FLOP/s")` is `12.3 TFLOP/s`."""
    for scale, prefix in _SI:
        if abs(value) >= scale:
            return f"{significant(value / scale, digits)} {prefix}{unit}"
    return f"{significant(value, digits)} {unit}"


def energy(joules: float, digits: int = 3) -> str:
    """An energy in J down to pJ: `energy(0.0123)` is `12.3 mJ`."""
    if abs(joules) >= 1:
        return with_prefix(joules, "J", digits)
    for scale, prefix in _SMALL:
        if abs(joules) >= scale:
            return f"{significant(joules / scale, digits)} {prefix}J"
    return f"{significant(joules / 1e-12, digits)} pJ"


def duration(seconds: float, digits: int = 3) -> str:
    """A time in s, ms, us or ns: `duration(0.00123)` is `1.23 ms`."""
    for scale, unit in _SECONDS:
        if abs(seconds) >= scale:
            return f"{significant(seconds / scale, digits)} {unit}"
    return f"{significant(seconds / 1e-9, digits)} ns"


_SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def span(seconds: float, digits: int = 3) -> str:
    """A time that may be long, in days, h, min or as `duration`: `span(7200)` is `2.00 h`."""
    for scale, unit in _SPANS:
        if 2 * scale <= seconds < math.inf:
            return f"{significant(seconds / scale, digits)} {unit}"
    return duration(seconds, digits)


def capacity(num_bytes: float, digits: int = 3) -> str:
    """A memory capacity in GiB, or MiB when smaller than one GiB."""
    if abs(num_bytes) >= GIBI:
        return f"{significant(num_bytes / GIBI, digits)} GiB"
    return f"{significant(num_bytes / MEBI, digits)} MiB"
