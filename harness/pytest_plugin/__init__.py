"""The pytest plugin: `chip_benchmark` measures with our engine and shows it by pytest-benchmark.

    __init__.py        what pytest asks of a plugin: options, hooks, the summary
    fixture.py         the fixture; missing.py stands in where pytest-benchmark is not installed
    chip_benchmark.py  what a test calls: verify, measure, replay, judge
    chip_session.py    options, device, baseline and verdicts of a session
    engine.py          a device in pytest's own process
    replay.py          samples played to pytest-benchmark
    extra_info.py      what stands beside the samples in its files
    baseline.py        a file or a run that times are held against
    verdict.py         what a difference means
    fresh.py           a test measured again in a process of its own
    summary.py         what is told at the end

Every run of pytest in an environment with chipscale loads this file, so that it and `fixture.py`
import nothing beyond pytest; the rest is imported when a test asks for the fixture, or by
`--chip-baseline`.
"""

import argparse
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import ChipscaleError

if TYPE_CHECKING:
    from harness.pytest_plugin.chip_session import ChipSession

FIXTURE = "chip_benchmark"
SESSION: pytest.StashKey["ChipSession"] = pytest.StashKey()
COMPARED_CHIPS: pytest.StashKey[list[str]] = pytest.StashKey()
"""Names of the chips in the files of --benchmark-compare."""
COLLECTED: pytest.StashKey[frozenset[str]] = pytest.StashKey()

TOLERANCE = 0.05
"""A baseline is of another session, and between sessions medians of one chip move by 3 to 4 %
though nothing changed; `chipscale gate`, which takes turns in one, allows 3 %."""
ROUNDS = 5
"""As `harness/gate/policy.py`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, all named --chip-*."""
    group = parser.getgroup("chipscale", "chipscale: tests that measure a chip (chip_benchmark)")
    group.addoption(
        "--chip-device",
        default="auto",
        metavar="NAME",
        help="device to measure: auto (the accelerator if there is one), cpu, cuda, xpu, fake ...",
    )
    group.addoption(
        "--chip-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of `chipscale run`, as measure=careful or device.index=1; may be repeated",
    )
    group.addoption(
        "--chip-baseline",
        default="",
        metavar="FILE|RUN",
        help="fail tests that are slower than in that JSON file of pytest-benchmark, or in that "
        "run of chipscale (folder or id)",
    )
    group.addoption(
        "--chip-tolerance",
        type=_share,
        default=TOLERANCE,
        metavar="SHARE",
        help="the largest slow-down that is none, as 0.05; the mark chip_tolerance sets it for a "
        "test (default: %(default)s)",
    )
    group.addoption(
        "--chip-rounds",
        type=_count,
        default=ROUNDS,
        metavar="N",
        help="fresh processes that measure again what looks slow; the test fails only if they "
        "confirm it (default: %(default)s)",
    )
    group.addoption(
        "--chip-results-dir",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="where --chip-baseline=RUN is looked for (default: %(default)s)",
    )
    # One test in a process of its own leaves its median here: see `fresh.py`.
    group.addoption("--chip-fresh", type=Path, default=None, help=argparse.SUPPRESS)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 10:
        raise ValueError(text)
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def pytest_configure(config: pytest.Config) -> None:
    """Offer the fixture, and read the baseline before anything is measured."""
    config.addinivalue_line(
        "markers", "chip_tolerance(share): the largest slow-down of this test that is none, as 0.1"
    )
    has_benchmark = hasattr(config.option, "benchmark_disable")
    name = f"harness.pytest_plugin.{'fixture' if has_benchmark else 'missing'}"
    config.pluginmanager.register(importlib.import_module(name), name)
    if config.option.chip_baseline and has_benchmark and not is_worker(config):
        if not is_timing(config):
            raise pytest.UsageError(
                "--chip-baseline: nothing is timed with --benchmark-disable, --benchmark-skip or "
                "in parallel (pytest-xdist), so nothing can be held against it. Leave one out."
            )
        session_of(config)


def is_worker(config: pytest.Config) -> bool:
    """This process is one of pytest-xdist's."""
    return hasattr(config, "workerinput")


def is_timing(config: pytest.Config) -> bool:
    """Tests are timed; pytest-benchmark decides by the same options."""
    option = config.option
    is_parallel = (
        is_worker(config)
        or getattr(option, "dist", "no") != "no"
        or "PYTEST_XDIST_WORKER" in os.environ
    )
    is_disabled = option.benchmark_disable and not option.benchmark_enable
    return not (is_parallel or is_disabled or (option.benchmark_skip and not option.benchmark_only))


def session_of(config: pytest.Config) -> "ChipSession":
    """What this session has of ours, made when it is first asked for.

    Raises:
        pytest.UsageError: for a baseline that cannot be read.
    """
    if SESSION not in config.stash:
        from harness.pytest_plugin.chip_session import Options, open_session

        option = config.option
        try:
            config.stash[SESSION] = open_session(
                Options(
                    device=option.chip_device,
                    overrides=tuple(option.chip_set),
                    baseline="" if option.chip_fresh else option.chip_baseline,
                    tolerance=option.chip_tolerance,
                    rounds=option.chip_rounds,
                    results_dir=option.chip_results_dir.resolve(),
                    fresh_file=option.chip_fresh,
                )
            )
        except ChipscaleError as error:
            raise pytest.UsageError(f"--chip-baseline: {error}") from None
    return config.stash[SESSION]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the names of all tests before some are deselected: those are not missing."""
    if config.option.chip_baseline:
        config.stash[COLLECTED] = frozenset(item.nodeid for item in items)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was measured on, and what became of the baseline."""
    parallel = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        and (FIXTURE, "checked") in getattr(report, "user_properties", ())
    ]
    if parallel and getattr(config.option, "dist", "no") != "no":
        terminalreporter.section("chipscale")
        terminalreporter.line(
            f"{len(parallel)} tests with {FIXTURE} were checked and not timed, since tests that "
            "run in parallel (pytest-xdist) would time each other. Add -n 0 to time them."
        )
    if SESSION in config.stash:
        from harness.pytest_plugin.summary import title_and_lines

        collected: frozenset[str] = config.stash.get(COLLECTED, frozenset())
        chips: list[str] = config.stash.get(COMPARED_CHIPS, [])
        title, lines = title_and_lines(config.stash[SESSION], collected, config.rootpath, chips)
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Say which chip was measured, once a test has opened it."""
    engine = config.stash[SESSION].opened if SESSION in config.stash else None
    if engine is not None:
        from harness.pytest_plugin.extra_info import chip_info

        machine_info["chip"] = chip_info(engine.environment)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, compared_benchmark: dict[str, Any]
) -> None:
    """Take the chip out of what pytest-benchmark compares, and compare it at the end.

    It reads those files before any test has opened a device, and would call each one's machine
    different from this one for that alone.
    """
    chip = compared_benchmark["machine_info"].pop("chip", None)
    if chip is not None:
        config.stash.setdefault(COMPARED_CHIPS, []).append(str(chip.get("name", "")))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """Say which chipscale measured."""
    engine = config.stash[SESSION].opened if SESSION in config.stash else None
    if engine is not None:
        commit_info["chipscale"] = engine.environment.version("chipscale")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add the environment, and to each benchmark of ours its case and record."""
    if SESSION in config.stash and config.stash[SESSION].opened is not None:
        from harness.pytest_plugin.extra_info import add_ours

        add_ours(output_json, config.stash[SESSION])
