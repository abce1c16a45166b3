"""Every Triton kernel compiles for every target, with no GPU present, within its shared memory."""

import functools
import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels import registry

KIB = 1024

# Architecture, threads of a warp, and shared memory that one block may use in KiB. NVIDIA: 164, 100
# (L40S and RTX 4090; RTX 5090) and 228 KiB per multiprocessor, 1 KiB of each block reserved; CUDA
# C++ Programming Guide, section "Compute Capabilities", table "Technical Specifications per
# Compute Capability",
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/. AMD: 64 KiB of LDS per workgroup on
# CDNA 3, https://rocm.docs.amd.com/en/latest/reference/gpu-arch-specs.html; 160 KiB on CDNA 4,
# https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/white-papers/
# amd-cdna-4-architecture-whitepaper.pdf.
TARGETS = {
    "sm_80": ("cuda", "80", 32, 163),
    "sm_89": ("cuda_99k", "89", 32, 99),
    "sm_90": ("cuda", "90", 32, 227),
    "sm_100": ("cuda", "100", 32, 227),
    "sm_120": ("cuda_99k", "120", 32, 99),
    "gfx942": ("hip", "gfx942", 64, 64),
    "gfx950": ("hip", "gfx950", 64, 160),
}


def _compile_all(target: str) -> subprocess.CompletedProcess[str]:
    family, architecture, warp_size, _ = TARGETS[target]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("aot_compile.py")
    root = Path(registry.__file__).parents[1]
    return subprocess.run(
        [sys.executable, str(script), family, architecture, str(warp_size)],
        env=environment | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@functools.cache
def _started() -> dict[str, Future[subprocess.CompletedProcess[str]]]:
    # All targets at once, one process a core: they take half a minute each.
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    return {target: pool.submit(_compile_all, target) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_within_shared_memory(target: str) -> None:
    pytest.importorskip("triton")
    completed = _started()[target].result()
    assert completed.returncode == 0, completed.stderr[-4000:]
    family, _, _, limit_kib = TARGETS[target]
    kernels = [json.loads(line) for line in completed.stdout.splitlines()]
    described = [
        description.label
        for name in registry.names()
        for description in _descriptions(name)
        if family in description.families
    ]
    assert [kernel["label"] for kernel in kernels] == described
    for kernel in kernels:
        assert kernel["binary_bytes"] > 0, kernel["label"]
        assert kernel["shared_bytes"] <= limit_kib * KIB, kernel["label"]


def _descriptions(name: str) -> tuple:
    registry.load(name)
    return sys.modules[f"kernels.{name}"].AOT


def _launched_from(name: str) -> set[str]:
    # An op is a file, or a folder with its launches in custom_ops.py.
    registry.load(name)
    module = sys.modules.get(f"kernels.{name}.custom_ops") or sys.modules[f"kernels.{name}"]
    # Functions that a kernel calls are compiled within it and have other names.
    return {key for key in vars(module) if key.endswith("_kernel")}


@pytest.mark.parametrize("name", registry.names())
def test_every_kernel_of_an_op_is_described_for_every_family(name: str) -> None:
    for family in ("cuda", "cuda_99k", "hip"):
        described = {
            description.kernel.__name__
            for description in _descriptions(name)
            if family in description.families
        }
        assert described == _launched_from(name)


@pytest.mark.parametrize("name", registry.names())
def test_every_configuration_that_may_be_chosen_is_compiled_ahead(name: str) -> None:
    registry.load(name)
    for tunable in getattr(sys.modules[f"kernels.{name}"], "TUNABLES", ()):
        for family, configs in tunable.configs.items():
            for config in configs:
                assert any(
                    family in description.families
                    and description.tunable == tunable.kernel
                    and description.constexprs.items() >= dict(config.blocks).items()
                    and (description.num_warps, description.num_stages)
                    == (config.num_warps, config.num_stages)
                    for description in _descriptions(name)
                ), f"{tunable.kernel} {config} on {family}"
