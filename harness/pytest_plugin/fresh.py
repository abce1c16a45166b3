"""A test measured once more, alone in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

TIMEOUT_S = 900.0
"""Starting Python and torch, a suite's fixtures and one measurement; assumed to be enough."""

WITH_VALUE = (
    *("-k", "-m", "-n", "--numprocesses", "--dist", "--maxfail", "--durations"),
    *("--junitxml", "--junit-xml", "--junit-prefix", "--log-file", "--html", "--report-log"),
    *("--benchmark-json", "--benchmark-save", "--benchmark-compare", "--benchmark-compare-fail"),
    *("--benchmark-histogram", "--benchmark-cprofile", "--benchmark-cprofile-dump"),
    *("--chip-baseline", "--cov", "--cov-report", "--cov-config"),
)
"""Options that choose tests or write files, which a single test in a second process must not."""
WITHOUT_VALUE = (
    *("-x", "--exitfirst", "--pdb", "--trace", "-s", "--capture=no", "-v", "-vv", "-q", "-qq"),
    *("--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first"),
    *("--sw", "--stepwise", "--sw-skip", "--stepwise-skip", "--cache-clear"),
    *("--benchmark-only", "--benchmark-enable", "--benchmark-autosave", "--benchmark-save-data"),
)


def fresh_median_s(item: pytest.Item) -> float | str:
    """The test's median in a fresh process, or why there is none, in a sentence.

    The process is started with the options of this one, so that fixtures and parameters are the
    same, without those that choose tests or write files.
    """
    config = item.config
    with tempfile.TemporaryDirectory(prefix="chipscale-fresh-") as folder:
        found = Path(folder) / "median.json"
        command = [
            *(sys.executable, "-m", "pytest"),
            *arguments_of(item),
            *("-q", "--no-header", "--benchmark-disable", f"--chip-fresh={found}"),
        ]
        if getattr(config.option, "xmlpath", None):
            command.append(f"--junit-xml={Path(folder) / 'junit.xml'}")
        if config.pluginmanager.hasplugin("_cov"):
            command.append("--no-cov")
        try:
            done = subprocess.run(
                command,
                cwd=config.invocation_params.dir,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {TIMEOUT_S:g} s"
        if not found.exists():
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            return f"exit code {done.returncode}: {lines[-1] if lines else 'no words'}"
        return float(json.loads(found.read_text(encoding="ascii"))["median_s"])


def arguments_of(item: pytest.Item) -> list[str]:
    """What to give to pytest for that test alone, with the options of this session."""
    config = item.config
    kept = kept_arguments(
        [str(argument) for argument in config.invocation_params.args],
        config.args if config.args_source is pytest.Config.ArgsSource.ARGS else [],
    )
    return [*kept, node_argument(item)]


def node_argument(item: pytest.Item) -> str:
    """The test as an argument, wherever pytest is started."""
    return "::".join([str(item.path), *item.nodeid.split("::")[1:]])


def kept_arguments(arguments: Sequence[str], positional: Sequence[str]) -> list[str]:
    """Those of a command line of pytest that a process for one of its tests has to have too.

    Args:
        arguments: all, without the program's name.
        positional: those among them that name files and tests.
    """
    kept = list(_kept(arguments))
    for name in reversed(positional):
        if name in kept:
            # The last of that name: an option's value may be spelled the same.
            del kept[len(kept) - 1 - kept[::-1].index(name)]
    return kept


def _kept(arguments: Sequence[str]) -> Iterator[str]:
    is_value = False
    for argument in arguments:
        if is_value and not argument.startswith("-"):
            is_value = False
            continue
        is_value = argument in WITH_VALUE
        name = argument.partition("=")[0]
        if not is_value and name not in WITH_VALUE and argument not in WITHOUT_VALUE:
            yield argument
