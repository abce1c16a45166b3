import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extrapolate.elementwise import (
    choose,
    count,
    doublings,
    least,
    least_count,
    most,
    most_count,
    quotient,
    quotient_up,
)

WHOLE = st.integers(1, 2**26)


@given(WHOLE, WHOLE)
def test_whole_numbers_divide_alike_in_arrays(number: int, divisor: int) -> None:
    several = count(np.array([number]))
    assert quotient(several, divisor) == [quotient(number, divisor)]
    assert quotient_up(several, divisor) == [quotient_up(number, divisor)]
    assert quotient_up(number, divisor) == -(-number // divisor)


@given(WHOLE)
def test_doublings_are_the_logarithm_rounded_up(number: int) -> None:
    assert 2 ** doublings(number) >= number > 2 ** doublings(number) / 2
    assert doublings(count(np.array([number]))) == [doublings(number)]


@pytest.mark.parametrize(("take", "expected"), [(least, [1, 2]), (most, [2, 3])])
def test_arrays_and_numbers_mix(take: object, expected: list[int]) -> None:
    assert callable(take)
    assert list(take(np.array([1.0, 3.0]), 2.0)) == expected
    assert list(take(2.0, np.array([1.0, 3.0]))) == expected


def test_numbers_stay_python_s_own() -> None:
    assert type(least(1.0, 2.0)) is float
    assert type(least_count(1, 2)) is int
    assert type(most_count(1, 2)) is int
    assert type(choose(True, 1.0, math.inf)) is float
    assert type(count(3)) is int
