"""Sessions of pytest inside a test that leave the process as the tests after them need it."""

import sys
from pathlib import Path
from types import ModuleType

import pytest


class KeptModules:
    """Libraries that an inner session imported, put back after pytester has forgotten them.

    torch and our ops register themselves when they are imported, and cannot be imported twice.
    """

    def __init__(self, project: Path) -> None:
        self._project = project
        self._modules: dict[str, ModuleType] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Remember all but the modules of the project itself."""
        self._modules |= {
            name: module
            for name, module in list(sys.modules.items())
            if not str(getattr(module, "__file__", "") or "").startswith(str(self._project))
        }

    def put_back(self) -> None:
        for name, module in self._modules.items():
            sys.modules.setdefault(name, module)
