"""A file in `kernels/` is an op by being there; one that is not is named."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest

from kernels import copy, registry
from kernels.op import Mode
from tests.kernels.checks import odd_problem


@pytest.fixture
def new_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of a file that was just added as kernels/new.py."""
    module = ModuleType("kernels.new")
    monkeypatch.setitem(sys.modules, "kernels.new", module)
    monkeypatch.setattr(registry, "names", lambda: ("new",))
    yield module
    registry.load.cache_clear()


def test_file_that_describes_no_op_is_named(new_file: ModuleType) -> None:
    with pytest.raises(AssertionError, match=r"kernels/new has no `OP = Op\(\.\.\.\)`"):
        registry.load(new_file.__name__.removeprefix("kernels."))


def test_op_of_another_name_than_its_file_is_named(new_file: ModuleType) -> None:
    new_file.OP = replace(copy.OP)
    with pytest.raises(AssertionError, match=r"kernels/new.py describes an op called 'copy'"):
        registry.load("new")


def test_new_op_is_told_to_bring_its_sizes() -> None:
    op = replace(registry.load("copy"), name="new")
    with pytest.raises(AssertionError, match=r"add odd sizes of 'new' to SIZES .* each of N"):
        odd_problem(op, "fp32", Mode.FORWARD)
