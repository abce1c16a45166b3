"""Arithmetic that is the same for a number and for an array of them, element by element.

A number stays a Python number, since a single projection asks for few of them and NumPy's scalars
cost ten times as much; arrays are those of a search over plans.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Count: TypeAlias = "int | NDArray[np.float64]"
"""Whole numbers: an int, or an array of whole floats, which NumPy divides much faster."""
Number: TypeAlias = "float | NDArray[np.float64]"
Whole: TypeAlias = "int | NDArray[np.integer]"
"""Whole numbers as callers have them."""


def count(value: "Whole | NDArray[np.float64]") -> Count:
    """Whole numbers as this arithmetic takes them."""
    return np.asarray(value, np.float64) if isinstance(value, np.ndarray) else int(value)


def is_array(*values: object) -> bool:
    """Any of them is an array."""
    return any(isinstance(value, np.ndarray) for value in values)


def least(one: Number, other: Number) -> Number:
    """The smaller of the two."""
    if is_array(one, other):
        return np.minimum(one, other)
    return min(one, other)


def most(one: Number, other: Number) -> Number:
    """The larger of the two."""
    if is_array(one, other):
        return np.maximum(one, other)
    return max(one, other)


def choose(condition: "bool | NDArray[np.bool_]", one: Number, other: Number) -> Number:
    """The first where the condition holds, else the second."""
    if isinstance(condition, np.ndarray):
        return np.where(condition, one, other)
    return one if condition else other


def quotient(number: Count, divisor: Count) -> Count:
    """Whole numbers divided, rounded down; exact below 2^26 in arrays."""
    if isinstance(number, np.ndarray) or isinstance(divisor, np.ndarray):
        return np.floor(number / divisor)
    return number // divisor


def quotient_up(number: Count, divisor: Count) -> Count:
    """Whole numbers divided, rounded up; exact below 2^26 in arrays."""
    if isinstance(number, np.ndarray) or isinstance(divisor, np.ndarray):
        return np.ceil(number / divisor)
    return -(-number // divisor)


def least_count(one: Count, other: Count) -> Count:
    """The smaller of two whole numbers."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.minimum(one, other)
    return min(one, other)


def most_count(one: Count, other: Count) -> Count:
    """The larger of two whole numbers."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.maximum(one, other)
    return max(one, other)


def doublings(number: Count) -> Count:
    """The base-2 logarithm of a whole number of at least 1, rounded up."""
    if isinstance(number, np.ndarray):
        return np.ceil(np.log2(number))
    return (number - 1).bit_length()
