"""The divisor that is offered where a number does not divide another."""

import math


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a positive number that is at most `most`; 1 where there is none.

    In the square root of the number, so that an absurd one is answered at once as well.
    """
    found = 1
    for low in range(1, math.isqrt(number) + 1):
        if number % low == 0:
            for divisor in (low, number // low):
                if found < divisor <= most:
                    found = divisor
    return found
