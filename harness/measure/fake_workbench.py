"""FakeWorkbench: a problem on the fake chip, whose cost model advances its clock."""

import ctypes
import os

import torch

from harness.device.fake import FakeDevice
from harness.device.request import Fault
from harness.measure.correctness import imagined
from harness.measure.footprint import affordable_sets, num_wanted_sets
from harness.measure.inputs import tolerances
from harness.measure.policy import MeasurePolicy
from harness.measure.subject import Subject, UnsupportedHere, refuse_values
from kernels import dtypes, registry, tuning
from kernels.op import Op, Outputs, Problem

FAKE_FAMILY = "cuda"
"""The fake chip takes the launch configurations of NVIDIA's."""

IMPL_EFFICIENCY = {"torch": 0.70, "compile": 0.75, "triton": 0.80}
"""Share of the fake chip's roof that each implementation reaches: made up, and ordered so that
tables and plots show a difference."""


_TRANSFERS = ("host_to_device", "device_to_host")
"""The ops that go over the fake chip's link to its host."""


class FakeWorkbench:
    """No tensors: the cost model advances the fake chip's clock, or a fault is acted out."""

    def __init__(self, op: Op, problem: Problem, device: FakeDevice, policy: MeasurePolicy) -> None:
        self.cost = op.cost(problem)
        self._num_sets = affordable_sets(op, problem, device, num_wanted_sets(policy))
        self._policy = policy
        self._op = op
        self._problem = problem
        self._device = device

    def subject(self, impl: str) -> Subject:
        """The implementation's stand-in."""
        self._op.impl(impl)
        refuse_values(self._op, self._policy)
        faults = dict(self._device.options.faults)
        fault = faults.get(f"{self._problem.op}/{impl}", faults.get(self._problem.op))
        sound_runs = self._device.options.sound_runs
        _act_out(fault if sound_runs is None else None, self._device)
        options, num_bytes = self._device.options, self.cost.num_bytes
        is_transfer = self._problem.op in _TRANSFERS
        if is_transfer and impl != "torch":
            raise UnsupportedHere("The fake chip's copy engine is torch's alone.")
        share = IMPL_EFFICIENCY.get(impl, 0.5)
        if impl == "triton":
            share /= self._launch_factor()
        bounds = tolerances(self._op, self._problem, self._policy)
        errors = None if fault is None else _FAKE_ERRORS.get(fault)

        num_runs = 0

        def run() -> Outputs:
            nonlocal num_runs
            num_runs += 1
            is_faulty = sound_runs is not None and num_runs > sound_runs
            _act_out(fault if is_faulty else None, self._device)
            bandwidth = self._device.bandwidth_bytes_per_s(num_bytes)
            if is_transfer:
                bandwidth = options.link_bandwidth_bytes_per_s
            ideal_s = max(self.cost.flops / options.peak_flops_per_s, num_bytes / bandwidth)
            self._device.advance(ideal_s / share)
            return ()

        return Subject(
            runs=(run,) * self._num_sets,
            restore=lambda which: None,
            check=lambda: imagined(bounds, errors if sound_runs is None else None),
            recheck=lambda which, outputs: imagined(bounds, errors),
        )

    def _launch_factor(self) -> float:
        """How much slower the launches are than the best there are, all kernels together."""
        factor = 1.0
        dtype = dtypes.torch_dtype(self._problem.dtype)
        for tunable in registry.tunables(self._op.name):
            configs = tunable.configs.get(FAKE_FAMILY, ())
            if not configs:
                continue
            axes = dict(self._problem.axes)
            chosen = tuning.choose(tunable.kernel, dtype, configs[0], **axes)
            factor *= _LAUNCH_FACTORS[configs.index(chosen) % len(_LAUNCH_FACTORS)]
        return factor


# What a launch configuration is worth on the fake chip, by its place among those that may be
# chosen: made up. The first is the usual, and the third is best, so that a tuner has something to
# find.
_LAUNCH_FACTORS = (1.0, 1.05, 0.95, 1.15)

_FAKE_ERRORS = {Fault.WRONG: 1.0, Fault.NAN: float("nan")}
"""The errors of a fake chip that is asked to compute wrongly."""


def _act_out(fault: Fault | None, device: FakeDevice) -> None:
    """Do what the fault says a broken chip does, for those that end a case at once."""
    if fault is Fault.POISON:
        device.is_poisoned = True
    if device.is_poisoned:
        raise RuntimeError("the fake chip is poisoned, as it was asked to be")
    if fault is Fault.OUT_OF_MEMORY:
        raise torch.OutOfMemoryError("the fake chip is out of memory, as it was asked to be")
    if fault is Fault.ERROR:
        raise RuntimeError("the fake chip failed, as it was asked to")
    if fault is Fault.HANG:
        while True:
            # Holding Python's lock, so that no other thread of the process runs either.
            ctypes.PyDLL(None).pause()
    if fault is Fault.CRASH:
        os.abort()
    if fault is Fault.SEGFAULT:
        ctypes.string_at(0)
