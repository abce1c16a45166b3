import pytest

from harness.units import (
    capacity,
    duration,
    percent,
    signed_percent,
    significant,
    span,
    with_prefix,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (duration(1.5), "1.50 s"),
        (duration(0.00123), "1.23 ms"),
        (duration(12e-6), "12.0 us"),
        (duration(5e-10), "0.500 ns"),
        (span(90), "90.0 s"),
        (span(7200), "2.00 h"),
        (span(86400 * 54), "54.0 days"),
        (with_prefix(7.945e14, "FLOP/s"), "794 TFLOP/s"),
        (with_prefix(3.35e12, "B/s"), "3.35 TB/s"),
        (with_prefix(0.0, "B/s"), "0 B/s"),
        (capacity(80 * 2**30), "80.0 GiB"),
        (capacity(3 * 2**20), "3.00 MiB"),
        (significant(99.96), "100"),
        (significant(0.012345, 2), "0.012"),
        (significant(123456, 2), "120000"),
    ],
)
def test_quantities_are_written_with_three_digits_and_a_unit(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("share", "plain", "change"),
    [
        (0.03, "3 %", "+3.0 %"),
        (0.0046, "0.46 %", "+0.5 %"),
        (7.604, "760 %", "+760 %"),
        (-0.014, "-1.4 %", "-1.4 %"),
    ],
)
def test_shares_are_per_cent_and_changes_have_a_sign(share: float, plain: str, change: str) -> None:
    assert percent(share) == plain
    assert signed_percent(share) == change
