"""Numbers a user may write: whether they are allowed, and the nearest one that is.

Bounds are wide: they keep sums finite and searches short, and no machine or model is near them.
"""

import math

from harness.errors import ConfigError

MOST_COUNT = 10**12
MOST_NUMBER = 1e15


def count(key: str, value: object, *, least: int = 1, most: int = MOST_COUNT) -> int:
    """The whole number that the value is.

    Raises:
        ConfigError: for anything that is no whole number from `least` to `most`, booleans included.
    """
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    nearest = nearest_count(value, least, most)
    upper = f" and at most {most}" if nearest == most else ""
    raise ConfigError(
        f"{key}: {_shown(value)} is not {count_text(least)}{upper}. Set {key}={nearest}."
    )


def number(
    key: str, value: object, *, above: float = 0.0, most: float = MOST_NUMBER, is_optional: bool
) -> float:
    """The finite number that the value is.

    Raises:
        ConfigError: for anything that is no number above `above` and up to `most`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and above < value <= most:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    nearest = nearest_number(value, above, most)
    upper = f" and at most {plain(most)}" if nearest == most else ""
    rest = ", or null where it is not known" if is_optional else ""
    raise ConfigError(
        f"{key}: {_shown(value)} is not {number_text(above)}{upper}. "
        f"Set {key}={plain(nearest)}{rest}."
    )


def count_text(least: int) -> str:
    """What is allowed, in words."""
    return f"a whole number of at least {least}"


def number_text(above: float) -> str:
    """What is allowed, in words."""
    return f"a finite number greater than {above:g}"


def nearest_count(value: object, least: int, most: int = MOST_COUNT) -> int:
    """The allowed whole number that is nearest; the least for what is no number at all."""
    found = _as_number(value)
    if found is None:
        return least
    if math.isinf(found):
        return most if found > 0 else least
    return min(max(math.floor(found + 0.5), least), most)


def nearest_number(value: object, above: float, most: float = MOST_NUMBER) -> float:
    """An allowed number in place of the value: that without its sign, the bound, or the next one.

    Nothing is nearest to a bound that is not allowed itself, so one more than it is offered.
    """
    found = _as_number(value)
    if found is not None and found > most:
        return most
    if found is not None and above < abs(found) <= most:
        return abs(found)
    return min(above + 1.0, most)


def plain(value: float) -> str:
    """The number in digits alone, since a YAML reader takes 1e+15 for a text."""
    return f"{value:.16g}"


def _as_number(value: object) -> float | None:
    """The number that a value or a text is; None for NaN, booleans and words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except OverflowError:
        return math.inf if isinstance(value, int) and value > 0 else -math.inf
    except ValueError:
        return None
    return None if math.isnan(found) else found


MAX_SHOWN = 40


def _shown(value: object) -> str:
    """The value as it was written, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
