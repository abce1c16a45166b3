"""`chipscale doctor`: devices, versions and what is missing here, each with what to do about it."""

import argparse
import importlib.metadata
import os
import shutil

import torch
from rich.console import Console
from rich.table import Table

from harness.cli.doctor_devices import (
    Finding,
    backend_findings,
    find_devices,
    telemetry_finding,
)
from harness.cli.doctor_timers import timers_view
from harness.config.specs import match_chip
from harness.device.base import Device
from harness.environment import num_usable_cores
from harness.units import capacity, duration
from kernels.op import problem
from kernels.registry import load

MIN_FREE_BYTES = 2 * 2**30
"""A run's records and MLflow's artifacts are megabytes; compilers' caches are gigabytes."""


def _device_findings(device: Device) -> list[Finding]:
    info = device.info
    memory = capacity(info.memory_bytes) if info.memory_bytes else "memory n/a"
    cache = capacity(info.last_level_cache_bytes) if info.last_level_cache_bytes else "n/a"
    chip = match_chip(info.name)
    name = f"{info.torch_device_type}:{info.index}"
    return [
        Finding(
            what=name,
            state=", ".join(
                part
                for part in (
                    info.name,
                    memory,
                    info.runtime,
                    f"driver {info.driver}" if info.driver else "",
                    f"by {info.backend}" if info.backend else "",
                )
                if part
            ),
            advice=""
            if chip is not None or info.torch_device_type == "cpu"
            else f"no data sheet names '{info.name}': add it to `match` of a file in configs/chip/",
        ),
        Finding(
            what=f"{name} timer",
            state=f"{device.timer.kind}, steps of {duration(device.timer.resolution_s)}",
        ),
        Finding(
            what=f"{name} cache flush",
            state=f"{capacity(device.flush_bytes)} for a last-level cache of {cache}",
            advice=""
            if info.last_level_cache_bytes
            else "the device does not tell its cache size; a generous one is assumed",
        ),
        telemetry_finding(device),
    ]


def _implementation_findings(device: Device) -> list[Finding]:
    """Whether each implementation can run here, asked of the plainest op."""
    op = load("copy")
    findings = []
    for impl in op.impls:
        reason = impl.unsupported(problem("copy", "fp32", N=1024), device.torch_device)
        findings.append(
            Finding(
                what=f"{impl.name} on {device.info.torch_device_type}",
                state="can run" if reason is None else "cannot run",
                advice=reason or "",
            )
        )
    return findings


def _package_findings() -> list[Finding]:
    findings = []
    for package in ("torch", "triton", "hydra-core", "mlflow", "pandas"):
        try:
            findings.append(Finding(what=package, state=importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(
                Finding(what=package, state="not installed", advice=f"pip install {package}")
            )
    if not torch.accelerator.is_available():
        wanted = "CUDA " + torch.version.cuda if torch.version.cuda else "no accelerator"
        findings.append(
            Finding(
                what="accelerator",
                state=f"none seen; this torch was built for {wanted}",
                advice="on a machine that has one: its driver, and a torch built for it",
            )
        )
    return findings


def _host_findings() -> list[Finding]:
    cores, load_average = num_usable_cores(), os.getloadavg()[0]
    free_bytes = shutil.disk_usage(".").free
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return [
        Finding(
            what="host",
            state=f"{cores} cores, load {load_average:.1f}",
            advice="other work is running; it will show in the samples"
            if load_average > 0.5 * cores
            else "",
        ),
        Finding(
            what="free disk here",
            state=capacity(free_bytes),
            advice="less than 2 GiB; make room" if free_bytes < MIN_FREE_BYTES else "",
        ),
        Finding(what="MLflow", state=uri or "embedded SQLite in the results folder"),
    ]


def main(options: argparse.Namespace) -> int:
    """Print everything looked at."""
    devices, broken = find_devices()
    findings = [finding for device in devices for finding in _device_findings(device)]
    findings += broken + backend_findings()
    findings += _implementation_findings(devices[-1])
    findings += _package_findings() + _host_findings()
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("what", no_wrap=True)
    table.add_column("state", overflow="fold")
    table.add_column("what to do", overflow="fold", style="yellow")
    for finding in findings:
        table.add_row(finding.what, finding.state, finding.advice)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(timers_view(devices))
    return 0
