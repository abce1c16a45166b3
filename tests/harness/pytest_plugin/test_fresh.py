"""The command line of a fresh process."""

import pytest

from harness.pytest_plugin.fresh import kept_arguments


@pytest.mark.parametrize(
    ("arguments", "positional", "kept"),
    [
        (["benchmarks", "-k", "gemm"], ["benchmarks"], []),
        (["-k", "benchmarks", "benchmarks"], ["benchmarks"], []),
        (["-p", "mine", "--size=3", "a.py", "b.py"], ["a.py", "b.py"], ["-p", "mine", "--size=3"]),
        (["--benchmark-json=x.json", "--benchmark-only", "-x"], [], []),
        (["--benchmark-json", "x.json", "--chip-device", "cpu"], [], ["--chip-device", "cpu"]),
        (["--benchmark-compare", "--chip-set=a=b"], [], ["--chip-set=a=b"]),
        (["--chip-baseline=b.json", "-n", "0", "-W", "error"], [], ["-W", "error"]),
    ],
)
def test_what_chooses_tests_or_writes_files_is_left_out(
    arguments: list[str], positional: list[str], kept: list[str]
) -> None:
    assert kept_arguments(arguments, positional) == kept
