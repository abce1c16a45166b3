import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.extrapolate.critical_batch import (
    batch_efficiency,
    critical_tokens_of_data,
    critical_tokens_of_loss,
)


# Kaplan et al. (arXiv 2001.08361) figure 10: about 1e6 tokens at a loss of 3, 1e5 at 5.
@pytest.mark.parametrize(("loss", "low", "high"), [(3.0, 0.8e6, 1.6e6), (5.0, 0.7e5, 1.4e5)])
def test_the_batch_of_a_loss_is_that_of_the_figure(loss: float, low: float, high: float) -> None:
    assert low < critical_tokens_of_loss(loss) < high


def test_the_batch_of_a_run_grows_with_its_tokens_and_stays_in_the_sweep() -> None:
    # arXiv 2410.21676: 64 to 8,192 sequences of 512, 85 million to 1.2 billion parameters.
    for parameters in (85e6, 1.2e9):
        sequences = 0.2 * critical_tokens_of_data(20 * parameters) / 512
        assert 64 < sequences < 8192
    ratio = critical_tokens_of_data(1e13) / critical_tokens_of_data(1e12)
    assert ratio == pytest.approx(10**0.47)


@given(st.floats(1e3, 1e10), st.floats(1e9, 1e14))
def test_a_token_of_a_larger_batch_teaches_less(batch: float, tokens: float) -> None:
    small = batch_efficiency(batch, num_active_parameters=1e9, train_tokens=tokens)
    large = batch_efficiency(2 * batch, num_active_parameters=1e9, train_tokens=tokens)
    assert 0 < large.share < small.share <= 1
    # Twice the batch never teaches less per step.
    assert large.share * 2 > small.share


def test_at_the_critical_batch_a_token_teaches_half() -> None:
    critical = critical_tokens_of_data(1e13)
    found = batch_efficiency(critical, num_active_parameters=1e9, train_tokens=1e13)
    assert found.share == pytest.approx(0.5)


def test_a_loss_decides_before_tokens_and_tokens_before_parameters() -> None:
    loss = batch_efficiency(1e6, num_active_parameters=1e9, train_tokens=1e13, train_loss=2.0)
    assert loss.critical_tokens == critical_tokens_of_loss(2.0)
    assert "2001.08361" in loss.basis
    guessed = batch_efficiency(1e6, num_active_parameters=1e9)
    assert guessed.critical_tokens == critical_tokens_of_data(20e9)
    assert "20 for each active parameter" in guessed.basis
