"""Suites of an imaginary GPU, measured in ABBA order, with the noise that GPUs were seen to have.

The median of a process is the case's time, times (1 + noise) for each of:
what the session adds to the case, the same for both arms; a drift through the session, the same for
all cases; what the process adds to all its cases; what it adds to this one; and in one process of a
hundred, something that disturbs the case. Samples scatter around that median.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.cases import Case
from harness.gate.rounds import Round
from tests.benchmarks.gate_trials import Trial, imagined_case, record_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNoise:
    """Relative standard deviations, except where another thing is said.

    Source: reports of users of GPU benchmarks: within a session .2 to .8 % and between sessions 3
    to 4 % (kekzl/imp#1400), .3 % within a job (namecheap/fast_mail_parser#128); the sizes of drift
    and disturbances are assumed.
    """

    within_run: float = 0.005
    """Of samples around their process's median, and of that median from process to process."""
    process: float = 0.002
    """Of what a process adds to all of its cases."""
    session: float = 0.015
    """Of what a session adds to a case."""
    drift: float = 0.02
    """Largest change of all cases from the first process of a session to the last, up or down."""
    outlier_share: float = 0.01
    """Processes in which a case is disturbed ..."""
    outlier: tuple[float, float] = (0.03, 0.30)
    """... by so much, between these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSuites:
    """How many, and of what."""

    noise: GpuNoise = GpuNoise()
    num_cases: int = 200
    num_samples: int = 30
    num_rounds: int = 5
    slower_share: float = 0.1
    """Of the cases, where any is slower: few enough that the suite has not shifted."""
    shortest_s: float = 20e-6
    longest_s: float = 5e-3
    timer_resolution_s: float = 0.5e-6
    """That of CUDA's events."""

    def trials(self, count: int, level: float, seed: int) -> Iterator[Trial]:
        """Suites in which some cases are slower by `level`; A/A where it is 0."""
        cases = tuple(imagined_case(number) for number in range(self.num_cases))
        num_slower = round(self.slower_share * self.num_cases) if level else 0
        for number in range(count):
            generator = np.random.default_rng((seed, number))
            slower = generator.choice(self.num_cases, num_slower, replace=False)
            factor = np.ones(self.num_cases)
            factor[slower] += level
            rounds = self._session(cases, factor, generator)
            yield Trial(
                first=rounds[: self.num_rounds],
                fresh=rounds[self.num_rounds :],
                slower=frozenset(cases[one].id for one in slower),
                level=level,
            )

    def _session(
        self, cases: tuple[Case, ...], factor: Floats, generator: np.random.Generator
    ) -> tuple[Round, ...]:
        """Both stages of one job: twice as many pairs of processes, one after the other."""
        noise, count = self.noise, self.num_cases
        times_s = np.exp(
            generator.uniform(np.log(self.shortest_s), np.log(self.longest_s), count)
        ) * (1 + noise.session * generator.standard_normal(count))
        drift = generator.uniform(-noise.drift, noise.drift)
        num_processes = 4 * self.num_rounds
        rounds = []
        for pair in range(2 * self.num_rounds):
            base_first = pair % 2 == 0
            sides = []
            for place, is_head in enumerate((not base_first, base_first)):
                when = (2 * pair + place) / (num_processes - 1)
                of_side = times_s * (factor if is_head else 1.0) * (1 + drift * when)
                sides.append(self._process(cases, of_side, generator))
            base, head = sides if base_first else reversed(sides)
            rounds.append(Round(base=base, head=head, base_first=base_first))
        return tuple(rounds)

    def _process(
        self, cases: tuple[Case, ...], times_s: Floats, generator: np.random.Generator
    ) -> tuple:
        noise, count = self.noise, self.num_cases
        medians_s = times_s * (1 + noise.within_run * generator.standard_normal(count))
        medians_s *= 1 + noise.process * generator.standard_normal()
        is_disturbed = generator.random(count) < noise.outlier_share
        medians_s *= 1 + is_disturbed * generator.uniform(*noise.outlier, count)
        scatter = noise.within_run * generator.standard_normal((self.num_samples, count))
        samples_s = medians_s * (1 + scatter)
        return tuple(
            record_of(case, samples, timer_resolution_s=self.timer_resolution_s)
            for case, samples in zip(cases, samples_s.T.tolist(), strict=True)
        )
