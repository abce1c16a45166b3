"""DeviceRequest: which device to measure; data, so that naming a device does not import torch."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What the fake chip can do wrong with an op."""

    WRONG = "wrong"
    NAN = "nan"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    HANG = "hang"
    CRASH = "crash"
    SEGFAULT = "segfault"
    POISON = "poison"
    """An error after which the device answers nothing but errors, until a new process opens it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeOptions:
    """How the fake chip behaves; the defaults make a healthy one."""

    seed: int = 0
    chip: str = "chipscale fake chip"
    """What it calls itself; two that are compared have two names."""
    peak_flops_per_s: float = 100e12
    """For every data type."""
    memory_bandwidth_bytes_per_s: float = 1e12
    cache_bandwidth_bytes_per_s: float = 4e12
    """For what fits into the last-level cache and was not flushed out of it."""
    link_bandwidth_bytes_per_s: float = 50e9
    """Between host and device, in one direction."""
    memory_bytes: int = 64 * 2**30
    launch_s: float = 5e-6
    noise: float = 0.005
    """Standard deviation of a sample, relative."""
    drift_per_s: float = 0.0
    """Relative slow-down for each second of virtual time."""
    throttle_after_s: float | None = None
    """Virtual time after which the chip throttles; None for never."""
    throttle_factor: float = 1.5
    """How much slower it is then."""
    faults: tuple[tuple[str, Fault], ...] = ()
    """Op, or op/implementation, and what goes wrong with it."""
    sound_runs: int | None = None
    """An implementation is sound for so many runs, and its fault shows after them; None for one
    that shows when the implementation is made ready."""
    count: int = 1
    """How many such chips the machine has."""
    spread: float = 0.0
    """Standard deviation of their speeds, relative; each chip keeps its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """Which device to measure."""

    name: str = "auto"
    """`auto` (the accelerator if there is one, else the CPU), `cpu`, `fake`, or a torch device
    type: cuda, xpu, npu, mlu, musa, mps ..."""
    index: int = 0
    fake: FakeOptions = FakeOptions()
