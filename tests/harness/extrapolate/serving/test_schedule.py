import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extrapolate.serving.schedule import (
    filling_s,
    joined_rate,
    non_dominated,
    split_chips,
    waiting_s,
)
from harness.extrapolate.serving.spec import Speculation

positive = st.floats(min_value=1e-3, max_value=1e3)


@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.9])
def test_the_wait_is_that_of_a_queue_played_customer_by_customer(utilization: float) -> None:
    service = 2.0
    arrivals = np.random.default_rng(1).exponential(service / utilization, 200_000)
    # Lindley: the next one waits for what is left of this one's wait and service.
    wait, total = 0.0, 0.0
    for gap in arrivals:
        total += wait
        wait = max(0.0, wait + service - gap)
    expected = waiting_s(np.array(service), np.array(utilization))
    assert total / len(arrivals) == pytest.approx(float(expected), rel=0.06)


def test_a_server_that_is_always_busy_makes_wait_for_ever() -> None:
    assert np.isinf(waiting_s(np.array(1.0), np.array(1.0)))


def test_one_prompt_alone_waits_for_no_others() -> None:
    assert filling_s(np.array(1.0), np.array(0.5), np.array(1.0)) == 0
    # Of four that come one per second the first waits three, the last none.
    assert filling_s(np.array(4.0), np.array(1.0), np.array(4.0)) == pytest.approx(1.5)


@given(positive, positive)
def test_pools_in_balance_serve_alike(prefill: float, decode: float) -> None:
    rate = float(joined_rate(np.array(prefill), np.array(decode)))
    share = rate / prefill  # Of the chips that read.
    assert share * prefill == pytest.approx((1 - share) * decode, rel=1e-9)
    assert rate <= min(prefill, decode)


@given(
    st.integers(2, 3000),
    st.sampled_from([1, 2, 8, 32]),
    st.sampled_from([1, 4, 64]),
    positive,
    positive,
)
def test_the_split_is_the_best_of_all_whole_ones(
    num_chips: int, prefill_chips: int, decode_chips: int, prefill: float, decode: float
) -> None:
    split = split_chips(
        num_chips,
        prefill_chips=prefill_chips,
        decode_chips=decode_chips,
        prefill_rate=prefill,
        decode_rate=decode,
    )
    best = max(
        (
            min(count * prefill, (num_chips - count * prefill_chips) // decode_chips * decode)
            for count in range(1, num_chips // prefill_chips + 1)
        ),
        default=0.0,
    )
    assert split.requests_per_s == pytest.approx(max(0.0, best))
    used = split.num_prefill * prefill_chips + split.num_decode * decode_chips
    assert used <= num_chips


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=40))
def test_no_point_of_the_front_is_beaten_and_all_others_are(
    points: list[tuple[float, float]],
) -> None:
    across, up = (np.array(values) for values in zip(*points, strict=True))
    kept = non_dominated(across, up)
    for index in range(len(points)):
        beaten = (across >= across[index]) & (up >= up[index])
        beaten &= (across > across[index]) | (up > up[index])
        is_twin = any((across[k], up[k]) == (across[index], up[index]) for k in kept)
        assert is_twin is not bool(beaten.any())
    assert (np.diff(across[kept]) > 0).all()
    assert (np.diff(up[kept]) < 0).all()


@given(st.floats(0.01, 0.99), st.integers(0, 8))
def test_tokens_of_a_pass_are_those_of_guesses_until_the_first_wrong_one(
    acceptance: float, guesses: int
) -> None:
    # One for sure, and the n-th guess counts when it and all before it are right.
    expected = 1 + sum(acceptance**n for n in range(1, guesses + 1))
    found = Speculation(num_tokens=guesses, acceptance=acceptance).tokens_per_pass
    assert found == pytest.approx(expected)


def test_guesses_that_are_always_right_all_count() -> None:
    assert Speculation(num_tokens=3, acceptance=1.0).tokens_per_pass == 4


def test_one_guess_of_deepseek_v3_gives_its_published_speed() -> None:
    """arXiv 2412.19437 section 5.4.3: 85 to 90 % accepted, 1.8 times the tokens per second."""
    for acceptance in (0.85, 0.9):
        guess = Speculation(num_tokens=1, acceptance=acceptance, draft_cost=0.02)
        assert guess.tokens_per_pass / guess.pass_share == pytest.approx(1.8, abs=0.07)
