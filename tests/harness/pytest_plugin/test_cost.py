"""What the plugin costs a run of pytest that does not use it."""

import json
import subprocess
import sys

LOOK = """
import importlib, json, sys, time
import pytest
before = set(sys.modules)
began_s = time.process_time()
import harness.pytest_plugin
importlib.import_module("harness.pytest_plugin.fixture")
print(json.dumps([time.process_time() - began_s, sorted(set(sys.modules) - before)]))
"""


def test_loading_it_imports_next_to_nothing_and_takes_under_50_ms() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    assert seconds < 0.05
    ours = [name for name in modules if name.partition(".")[0] in ("harness", "kernels")]
    assert ours == [
        "harness",
        "harness.errors",
        "harness.pytest_plugin",
        "harness.pytest_plugin.fixture",
        "harness.pytest_plugin.replay",
    ]
    assert not {"torch", "numpy", "hydra"} & {name.partition(".")[0] for name in modules}
