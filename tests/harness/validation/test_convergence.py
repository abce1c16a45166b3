"""Time to train: steps to a quality, by the reference convergence points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.validation.convergence import BENCHMARKS, Benchmark, benchmark_of
from harness.validation.rows import Dropped, PublishedRun, read_run
from tests.harness.validation.published_row import row

GPT3, LLAMA = BENCHMARKS[:2]


def test_gpt3_at_2048_sequences_is_24_evaluations_of_12_steps() -> None:
    # 23.5 evaluations on average, each 24,576 sequences after the last, and 24 x 5760 forward.
    assert GPT3.steps_to_train(2048) == pytest.approx(24 * 12 + 24 * 5760 / 2048 / 3)


def test_llama_at_1152_sequences_is_6_evaluations_of_40_steps() -> None:
    assert LLAMA.steps_to_train(1152) == pytest.approx(6 * 40 + 6 * 5760 / 1152 / 3)


@given(st.sampled_from(BENCHMARKS[:2]), st.integers(7, 13), st.integers(7, 13))
def test_a_larger_batch_needs_fewer_steps_and_no_fewer_sequences(
    benchmark: Benchmark, one: int, other: int
) -> None:
    small, large = sorted((2**one, 2**other))
    assert benchmark.steps_to_train(large) <= benchmark.steps_to_train(small)
    # A last step is filled, so a small batch may be behind by less than one evaluation.
    sequences = [size * benchmark.steps_to_train(size) for size in (small, large)]
    assert sequences[1] > 0.95 * sequences[0]


def test_only_sources_of_the_benchmark_train_to_its_target() -> None:
    assert benchmark_of("MLPerf Training v5.0 closed, NVIDIA", "llama3_405b") is LLAMA
    assert benchmark_of("a report", "llama3_405b") is None


def test_a_time_to_train_is_so_many_steps() -> None:
    cells = {"metric_name": "time_to_train_min", "metric_value": "60", "model": "gpt3-175b"}
    found = read_run(row(**cells, source="MLPerf Training v4.0 closed, smc", seq_len="2048"))
    assert isinstance(found, PublishedRun)
    assert found.family == "somewhere time to train"
    assert found.step_time_s == pytest.approx(3600 / GPT3.steps_to_train(128))


def test_a_time_to_train_without_a_target_is_not_predicted() -> None:
    found = read_run(row(metric_name="time_to_train_min"))
    assert isinstance(found, Dropped)
    assert "convergence is not known" in found.reason
