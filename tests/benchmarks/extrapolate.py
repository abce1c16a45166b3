"""`make bench-extrapolate`: how fast the best plan of a large cluster is found, as a table.

A full search enumerates all plans, times their layers, counts their memory and evaluates the step
of each that fits; nothing of it is kept from one repetition to the next. The evaluation alone
has the layers' times already. A curve is a search at each of many numbers of chips. Rates are
those of one core: plans over the time that this process, of one thread, had of it. The time that
passed is longer where others share the core.

    python -m tests.benchmarks.extrapolate [--repetitions 5] [--out FILE]

Set OMP_NUM_THREADS=1, as `make` does. Writes results/bench/extrapolate.json. Exits with 1 when a
target is missed.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.config.specs import load_chip, load_cluster, load_model, load_parallel
from harness.environment import num_usable_cores, processor_name
from harness.extrapolate.legal_plans import legal_plans
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.search import best_plan, evaluate
from harness.extrapolate.step import StepModel
from harness.units import duration
from kernels import registry
from tests.benchmarks.kept_result import keep

OUT = Path("results/bench/extrapolate.json")
CLUSTER = "h100_100k"
MODELS = ("llama3_405b", "deepseek_v3")
MAX_SEARCH_S = 1.0
MIN_PLANS_PER_S = 1e6
"""Of the evaluation alone."""
NUM_SIZES = 20
SMALLEST_OF_CURVE = 1024
MAX_CURVE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpeed:
    """The search of one model's best plan; times are medians over the repetitions.

    Times that end in `cpu_s` are what the process had of a core, the others what passed.
    """

    model: str
    num_chips: int
    num_plans: int
    num_fitting: int
    num_layers_timed: int
    """Distinct layers whose ops were looked up."""
    plan: str
    """The best one."""
    search_s: float
    """All of it."""
    enumeration_s: float
    evaluation_s: float
    """Memory of all plans and the step of those that fit, the layers' times known."""
    search_cpu_s: float
    evaluation_cpu_s: float
    plans_per_s_of_search: float
    plans_per_s_of_evaluation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSpeed:
    """A search at each of many numbers of chips, one after the other."""

    model: str
    sizes: tuple[int, ...]
    seconds: float
    num_plans: int
    """At all sizes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where it was measured."""

    processor: str
    num_cores: int
    load: float
    """Mean number of running programs over the last minute, before measuring."""
    python: str
    numpy: str
    threads: str
    """OMP_NUM_THREADS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtrapolateSpeed:
    """What the benchmark found."""

    host: Host
    num_repetitions: int
    searches: tuple[SearchSpeed, ...]
    curve: CurveSpeed

    @property
    def misses(self) -> tuple[str, ...]:
        """Targets that were missed, one sentence each."""
        found = []
        for one in self.searches:
            if one.search_s > MAX_SEARCH_S:
                found.append(f"The search of {one.model} takes {duration(one.search_s)}.")
            if one.plans_per_s_of_evaluation < MIN_PLANS_PER_S:
                rate = one.plans_per_s_of_evaluation
                found.append(f"{rate:,.0f} plans/s of {one.model} are evaluated.")
        if self.curve.seconds > MAX_CURVE_S:
            found.append(f"The curve takes {duration(self.curve.seconds)}.")
        return tuple(found)


def step_model(model: str) -> StepModel:
    """The model on the cluster, with nothing timed yet."""
    cluster = load_cluster(CLUSTER)
    lookup = Lookup(load_chip(cluster.chip), registry.cost)
    return StepModel.of(load_model(model), cluster, lookup, load_parallel("search"))


def memory_limit(steps: StepModel) -> float:
    """The memory of the cluster's chip."""
    limit = steps.lookup.chip.memory_bytes
    assert limit is not None, "the chips of the benchmark have a data sheet"
    return float(limit)


class _Watch:
    """Seconds that passed, and those of them that the process had a core."""

    def __init__(self) -> None:
        self.begin_s = time.perf_counter(), time.process_time()

    def read_s(self) -> tuple[float, float]:
        """Since it was made."""
        return time.perf_counter() - self.begin_s[0], time.process_time() - self.begin_s[1]


def search_speed(model: str, num_chips: int, num_repetitions: int) -> SearchSpeed:
    """Search the best plan of a model, again and again from nothing."""
    parallel = load_parallel("search")
    searches, enumerations, evaluations = [], [], []
    for _ in range(num_repetitions):
        steps = step_model(model)
        limit = memory_limit(steps)
        watch = _Watch()
        found = best_plan(steps, parallel, num_chips, limit)
        searches.append(watch.read_s())
        assert found is not None, "the models of the benchmark fit their cluster"
        watch = _Watch()
        plans = legal_plans(steps.model, steps.cluster, parallel, num_chips)
        enumerations.append(watch.read_s())
        watch = _Watch()
        evaluate(steps, plans, limit, is_exchange_open=True)
        evaluations.append(watch.read_s())
    num_plans = found.summary.num_enumerated
    search_s, search_cpu_s = _medians(searches)
    evaluation_s, evaluation_cpu_s = _medians(evaluations)
    return SearchSpeed(
        model=model,
        num_chips=num_chips,
        num_plans=num_plans,
        num_fitting=found.summary.num_fitting,
        num_layers_timed=steps.num_layers_timed,
        plan=found.plan.label,
        search_s=search_s,
        enumeration_s=_medians(enumerations)[0],
        evaluation_s=evaluation_s,
        search_cpu_s=search_cpu_s,
        evaluation_cpu_s=evaluation_cpu_s,
        plans_per_s_of_search=num_plans / search_cpu_s,
        plans_per_s_of_evaluation=num_plans / evaluation_cpu_s,
    )


def _medians(readings: Sequence[tuple[float, float]]) -> tuple[float, float]:
    passed, of_core = zip(*readings, strict=True)
    return statistics.median(passed), statistics.median(of_core)


def curve_speed(model: str, sizes: Sequence[int]) -> CurveSpeed:
    """Search the best plan at each size."""
    parallel, steps = load_parallel("search"), step_model(model)
    limit = memory_limit(steps)
    begin = time.perf_counter()
    found = [best_plan(steps, parallel, size, limit) for size in sizes]
    return CurveSpeed(
        model=model,
        sizes=tuple(sizes),
        seconds=time.perf_counter() - begin,
        num_plans=sum(one.summary.num_enumerated for one in found if one is not None),
    )


def measure(
    models: Sequence[str], num_chips: int, sizes: Sequence[int], num_repetitions: int
) -> ExtrapolateSpeed:
    """The speed of the search of each model, and of a curve of the first."""
    host = Host(
        processor=processor_name(),
        num_cores=num_usable_cores(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
        numpy=np.__version__,
        threads=os.environ.get("OMP_NUM_THREADS", "not set"),
    )
    for model in models:
        # Ops are imported once for a process, which is no part of a search.
        steps = step_model(model)
        best_plan(steps, load_parallel("search"), sizes[0], memory_limit(steps))
    return ExtrapolateSpeed(
        host=host,
        num_repetitions=num_repetitions,
        searches=tuple(search_speed(model, num_chips, num_repetitions) for model in models),
        curve=curve_speed(models[0], sizes),
    )


def table(speed: ExtrapolateSpeed) -> Table:
    """A column for each model."""
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column("best plan")
    for one in speed.searches:
        shown.add_column(f"{one.model}, {one.num_chips:,} chips", justify="right", overflow="fold")
    lines: tuple[tuple[str, Callable[[SearchSpeed], str]], ...] = (
        ("plans", lambda one: f"{one.num_plans:,}"),
        ("that fit the memory", lambda one: f"{one.num_fitting:,}"),
        ("layers timed", lambda one: f"{one.num_layers_timed:,}"),
        ("full search", lambda one: duration(one.search_s)),
        ("  of one core", lambda one: duration(one.search_cpu_s)),
        ("enumeration", lambda one: duration(one.enumeration_s)),
        ("evaluation", lambda one: duration(one.evaluation_s)),
        ("  of one core", lambda one: duration(one.evaluation_cpu_s)),
        ("plans/s, full search", lambda one: f"{one.plans_per_s_of_search:,.0f}"),
        ("plans/s, evaluation", lambda one: f"{one.plans_per_s_of_evaluation:,.0f}"),
        ("found", lambda one: one.plan),
    )
    for name, text in lines:
        shown.add_row(name, *map(text, speed.searches))
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.extrapolate",
        description="How fast the best plan of a large cluster is found.",
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--chips", type=int, default=load_cluster(CLUSTER).num_chips)
    parser.add_argument("--sizes", type=int, default=NUM_SIZES, help="of the curve")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    smallest = min(SMALLEST_OF_CURVE, options.chips)
    sizes = [round(one) for one in np.geomspace(smallest, options.chips, options.sizes)]
    with console.status("searching ..."):
        speed = measure(options.models, options.chips, sizes, options.repetitions)
    console.print(table(speed))
    curve, host = speed.curve, speed.host
    console.print(
        f"A curve of {len(curve.sizes)} sizes of {curve.model} takes {duration(curve.seconds)} "
        f"({curve.num_plans:,} plans)."
    )
    console.print(
        f"{host.processor}, {host.num_cores} cores at load {host.load:.1f}; Python {host.python}, "
        f"NumPy {host.numpy}, threads: {host.threads}."
    )
    return keep(speed, speed.misses, options.out, console)


if __name__ == "__main__":
    sys.exit(main())
