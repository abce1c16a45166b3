"""Every Triton kernel compiles for every target, with no GPU present, within what it may use.

Those that are as they were when `results/kernel-resources.csv` was written are not compiled again.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import registry
from kernels.resources import TARGETS, Resources, descriptions, read_table

KEPT = Path(registry.__file__).parents[1] / "results" / "kernel-resources.csv"
OPS = [name for name in registry.names() if not registry.load(name).is_block]


@functools.cache
def _compiled(folder: Path) -> tuple[Resources, ...]:
    # In processes without TRITON_INTERPRET: where it is set, as it is for the other tests,
    # `triton.jit` gives functions that cannot be compiled.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    table = folder / "resources.csv"
    # Beside other tests, the other cores are theirs.
    num_processes = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    options = ["--processes", str(num_processes), "--kept", str(KEPT)]
    completed = subprocess.run(
        [sys.executable, "-m", "kernels.resources", str(table), *options],
        env=environment | {"PYTHONPATH": str(Path(registry.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert table.exists(), completed.stderr[-4000:]
    return tuple(read_table(table))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Resources, ...]:
    pytest.importorskip("triton")
    return _compiled(tmp_path_factory.getbasetemp())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_without_spills_within_shared_memory(
    target: str, compiled: tuple[Resources, ...]
) -> None:
    kernels = [one for one in compiled if one.target == target]
    families = {TARGETS[target].family, target}
    described = [
        (name, description.label)
        for name in OPS
        for description in descriptions(name)
        if families & set(description.families)
    ]
    assert sorted((one.op, one.kernel) for one in kernels) == sorted(described)
    assert [fault for one in kernels for fault in one.faults] == []


def test_the_table_that_is_kept_is_the_present_one(compiled: tuple[Resources, ...]) -> None:
    import triton

    if triton.__version__ != "3.7.1":
        pytest.skip("the table that is kept is of Triton 3.7.1")
    assert read_table(KEPT) == list(compiled), "`make kernel-resources` writes it again"


def _launched_from(name: str) -> set[str]:
    # An op is a file, or a folder with its launches in custom_ops.py.
    registry.load(name)
    module = sys.modules.get(f"kernels.{name}.custom_ops") or sys.modules[f"kernels.{name}"]
    # A launcher that ops share is a function `launch_*`, with its kernels in its own file.
    launchers = {
        sys.modules[function.__module__]
        for key, function in vars(module).items()
        if key.startswith("launch_")
    }
    # Functions that a kernel calls are compiled within it and have other names.
    return {key for file in (module, *launchers) for key in vars(file) if key.endswith("_kernel")}


@pytest.mark.parametrize("name", OPS)
def test_every_kernel_of_an_op_is_described_for_every_target(name: str) -> None:
    kernels: dict[str, set[str]] = {}
    for description in descriptions(name):
        kernels.setdefault(description.kernel.__name__, set()).update(description.families)
    assert kernels.keys() == _launched_from(name)
    for kernel, families in kernels.items():
        # A kernel whose descriptions are all for single architectures is launched nowhere else.
        if not families <= TARGETS.keys():
            missing = {
                key for key, target in TARGETS.items() if not {key, target.family} & families
            }
            assert missing == set(), kernel


@pytest.mark.parametrize("name", OPS)
def test_every_configuration_that_may_be_chosen_is_compiled_ahead(name: str) -> None:
    for tunable in registry.tunables(name):
        for family, configs in tunable.configs.items():
            for config in configs:
                assert any(
                    family in description.families
                    and description.tunable == tunable.kernel
                    and description.constexprs.items() >= dict(config.blocks).items()
                    and (description.num_warps, description.num_stages)
                    == (config.num_warps, config.num_stages)
                    for description in descriptions(name)
                ), f"{tunable.kernel} {config} on {family}"
