"""Histories of an imaginary chip: series with levels, correlated noise and wild runs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.trend import HistoryRun


def series(
    seed: int,
    num_runs: int,
    *,
    noise: float = 0.01,
    correlation: float = 0.0,
    wild: float = 0.01,
    steps: Sequence[tuple[int, float]] = (),
) -> NDArray[np.float64]:
    """Times in seconds around 1 ms; each step is its first run and its size."""
    generator = np.random.default_rng(seed)
    shocks = generator.normal(0, 1, num_runs)
    level = np.zeros(num_runs)
    level[0] = shocks[0]
    for at in range(1, num_runs):
        level[at] = correlation * level[at - 1] + np.sqrt(1 - correlation**2) * shocks[at]
    logs = noise * level + np.where(
        generator.random(num_runs) < wild, generator.uniform(0.1, 0.5, num_runs), 0
    )
    for at, size in steps:
        logs[at:] += np.log1p(size)
    return np.asarray(1e-3 * np.exp(logs))


def history(
    times: dict[str, NDArray[np.float64]], *, protocol: str = "p", **changes: str
) -> tuple[HistoryRun, ...]:
    """One run a night; `times` has a series for each case, NaN where a run has no time."""
    num_runs = len(next(iter(times.values())))
    values = {
        "suite": "quick",
        "model": "llama3_8b",
        "chip": "imaginary_x1",
        "branch": "main",
        "fingerprint": "imaginary-0123",
    } | changes
    runs = []
    for at in range(num_runs):
        medians = {case: float(one[at]) for case, one in times.items() if not np.isnan(one[at])}
        runs.append(
            HistoryRun(
                run_id=f"run-{at:03}",
                started_at=f"2026-{1 + at // 28:02}-{1 + at % 28:02}T03:00:00+00:00",
                commit=f"{at:040x}",
                medians_s=tuple(medians.items()),
                protocols=tuple((case, protocol) for case in medians),
                **values,
            )
        )
    return tuple(runs)
