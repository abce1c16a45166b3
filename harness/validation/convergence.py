"""How many steps of training a benchmark's time is: MLPerf trains to a quality, not for a time.

A run trains from a checkpoint, evaluates every so many sequences, and ends at the first evaluation
that reaches the target. How many evaluations that takes depends on the batch and on nothing else
that the model knows, so it is taken from the reference convergence points: their mean, interpolated
over the logarithm of the batch and rounded up.

Source: mlcommons/logging, mlperf_logging/rcp_checker/training_{3.0.0,4.1.0}/rcps_gpt3.json and
training_{5.0.0,5.1.0}/rcps_llama31_405b.json, training_5.1.0/rcps_llama31_8b.json and
training_6.1.0/rcps_deepseekv3_671b.json; mlcommons/training_policies, training_rules.adoc.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark of MLPerf Training."""

    model: str
    """The name of its file in `configs/model/`."""
    points: tuple[tuple[int, float], ...]
    """Sequences of a step, and the mean number of evaluations to the target."""
    sequences_between_evaluations: int
    evaluation_sequences: int
    evaluations_saved: int = 0
    """Evaluations that submitted runs need fewer than the reference."""

    def steps_to_train(self, batch: int) -> float:
        """Steps of that many sequences until the target, evaluations counted as parts of steps.

        An evaluation is a forward pass alone, a third of a step's work.
        """
        each = math.ceil(self.sequences_between_evaluations / batch)
        sizes, needed = zip(*self.points, strict=True)
        mean = float(np.interp(math.log2(batch), np.log2(sizes), needed))
        evaluations = math.ceil(round(mean, 6)) - self.evaluations_saved
        return evaluations * (each + self.evaluation_sequences / batch / 3)


BENCHMARKS = (
    Benchmark(
        model="gpt3_175b",
        points=(
            (1536, 23.83),
            (2048, 23.5),
            (3072, 24.17),
            (4096, 25.17),
            (6144, 28.0),
            (8192, 32.33),
        ),
        sequences_between_evaluations=24576,
        # 24,567 documents of C4, packed.
        evaluation_sequences=5760,
    ),
    Benchmark(
        model="llama3_405b",
        points=(
            (1008, 7.0),
            (1152, 7.0),
            (2304, 8.33),
            (4608, 10.67),
            (6912, 12.5),
            (9216, 15.0),
        ),
        sequences_between_evaluations=46080,
        evaluation_sequences=5760,
        # In round 5.0, time to train over step time of each of 14 submitted runs is one evaluation
        # less than the reference point of its batch.
        evaluations_saved=1,
    ),
    Benchmark(
        model="llama3_8b",
        points=((32, 14.6), (64, 18.45), (96, 22.5), (128, 28.15)),
        sequences_between_evaluations=12288,
        evaluation_sequences=1024,
    ),
    Benchmark(
        model="deepseek_v3",
        points=((15360, 47.0), (16384, 46.83), (18432, 46.5)),
        # Each step is evaluated at these batches.
        sequences_between_evaluations=15360,
        evaluation_sequences=1024,
    ),
)


def benchmark_of(source: str, model_name: str) -> Benchmark | None:
    """The benchmark that a source of MLPerf Training trains that model for, or None."""
    if "MLPerf Training" not in source:
        return None
    return next((known for known in BENCHMARKS if known.model == model_name), None)
