"""A case made ready: what to run, what to restore, how to check it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from harness.device.base import Device
from harness.device.fake import FakeDevice
from harness.device.request import Fault
from harness.errors import ChipscaleError
from harness.measure.correctness import compare, imagined
from harness.record import Correctness
from kernels import dtypes, registry, triton_support, tuning
from kernels.op import Cost, Inputs, Op, Outputs, Problem


class UnsupportedHere(ChipscaleError):  # noqa: N818 - it is a state, told as one
    """The implementation cannot run on this device; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One implementation of one problem, ready to be checked and timed."""

    runs: tuple[Callable[[], Outputs], ...]
    """The timed work, once for each set of inputs; each may be called any number of times."""
    restore: Callable[[], None]
    """Puts back what a run overwrote; called before every run, outside the timed part."""
    check: Callable[[], Correctness]
    """Runs once on the first set of inputs and compares with the fp64 reference."""
    recheck: Callable[[int, Outputs], Correctness]
    """Compares what a timed run on that set of inputs returned with the fp64 reference."""


class Workbench(Protocol):
    """Everything the implementations of one problem share: inputs and reference."""

    cost: Cost

    def subject(self, impl: str) -> Subject:
        """The implementation made ready; raises UnsupportedHere."""


class TorchWorkbench:
    """Real tensors on a real device."""

    def __init__(self, op: Op, problem: Problem, device: Device, seed: int) -> None:
        self.cost = op.cost(problem)
        self._op = op
        self._problem = problem
        self._device = device
        generator = torch.Generator(device=device.torch_device).manual_seed(seed)
        self._inputs = op.make_inputs(problem, generator)
        # What a run overwrites may depend on the mode, as a block's does.
        self._originals = {
            name: tensor.clone() for name, tensor in self._inputs.items() if name in op.mutates
        }
        self._reference: Outputs | None = None

    def subject(self, impl: str) -> Subject:
        """The implementation made ready; compiles, where it compiles."""
        found = self._op.impl(impl)
        if impl == "triton" and triton_support.INTERPRETED:
            raise UnsupportedHere(
                "TRITON_INTERPRET=1 makes Triton interpret its kernels, and the interpreter's time "
                "says nothing of the chip; unset it."
            )
        reason = found.unsupported(self._problem, self._device.torch_device)
        if reason is not None:
            raise UnsupportedHere(reason)
        run = found.prepare(self._problem, self._inputs)

        def check() -> Correctness:
            # The reference comes first: outputs may be the inputs themselves, as an optimizer's
            # are, and computing it restores those.
            expected = self._expected()
            self._restore()
            self._poison(run())
            self._restore()
            outputs = run()
            self._device.synchronize()
            return compare(outputs, expected, self._op.tolerance(self._problem))

        def recheck(which: int, outputs: Outputs) -> Correctness:
            del which
            return compare(outputs, self._expected(), self._op.tolerance(self._problem))

        return Subject(runs=(run,), restore=self._restore, check=check, recheck=recheck)

    def _poison(self, outputs: Outputs) -> None:
        """Overwrites the outputs of a run, whose memory the next run is given again.

        An allocator hands out the block that was freed last, and it may hold the right result of
        another implementation: a kernel that leaves a part of its output as it is would be right.
        """
        inputs = {tensor.untyped_storage().data_ptr() for tensor in self._inputs.values()}
        for output in outputs:
            storage = output.untyped_storage()
            if storage.data_ptr() not in inputs:
                held = torch.empty(0, dtype=torch.uint8, device=output.device).set_(storage)
                # A NaN in every floating type, and no likely number in any other.
                held.fill_(0x7F if output.itemsize == 1 else 0xFF)

    def _restore(self) -> None:
        for name, original in self._originals.items():
            self._inputs[name].copy_(original)

    def _expected(self) -> Outputs:
        """The fp64 reference, computed once and shared by all implementations."""
        if self._reference is None:
            self._restore()
            device = self._device.torch_device
            # Only these are known to compute in fp64; elsewhere the host's processor does.
            where = device if device.type in ("cpu", "cuda") else torch.device("cpu")
            try:
                self._reference = self._referred(where)
            except torch.OutOfMemoryError:
                # The reference needs several times the memory of what is measured.
                self._device.release_memory()
                self._reference = self._referred(torch.device("cpu"))
        return self._reference

    def _referred(self, where: torch.device) -> Outputs:
        """The reference computed there and kept on the host, out of the peak that is measured."""
        outputs = self._op.reference(self._problem, in_fp64(self._inputs, where))
        return tuple(output.cpu() for output in outputs)


def in_fp64(inputs: Inputs, device: torch.device) -> dict[str, torch.Tensor]:
    """Copies with every floating tensor in fp64; integers stay as they are."""
    return {
        # Moved first: the device of the inputs need not know fp64.
        name: tensor.detach().to(device).to(torch.float64)
        if tensor.is_floating_point()
        else tensor.detach().to(device)
        for name, tensor in inputs.items()
    }


FAKE_FAMILY = "cuda"
"""The fake chip takes the launch configurations of NVIDIA's."""

IMPL_EFFICIENCY = {"torch": 0.70, "compile": 0.75, "triton": 0.80}
"""Share of the fake chip's roof that each implementation reaches: made up, and ordered so that
tables and plots show a difference."""


_TRANSFERS = ("host_to_device", "device_to_host")
"""The ops that go over the fake chip's link to its host."""


class FakeWorkbench:
    """No tensors: the cost model advances the fake chip's clock, or a fault is acted out."""

    def __init__(self, op: Op, problem: Problem, device: FakeDevice) -> None:
        self.cost = op.cost(problem)
        self._op = op
        self._problem = problem
        self._device = device

    def subject(self, impl: str) -> Subject:
        """The implementation's stand-in."""
        self._op.impl(impl)
        fault = dict(self._device.options.faults).get(self._problem.op)
        if fault is Fault.POISON:
            self._device.is_poisoned = True
        if self._device.is_poisoned:
            raise RuntimeError("the fake chip is poisoned, as it was asked to be")
        if fault is not None:
            _act_out(fault)
        options, num_bytes = self._device.options, self.cost.num_bytes
        is_transfer = self._problem.op in _TRANSFERS
        if is_transfer and impl != "torch":
            raise UnsupportedHere("The fake chip's copy engine is torch's alone.")
        share = IMPL_EFFICIENCY.get(impl, 0.5)
        if impl == "triton":
            share /= self._launch_factor()
        tolerances = self._op.tolerance(self._problem)
        errors = None if fault is None else _FAKE_ERRORS.get(fault)

        def run() -> Outputs:
            bandwidth = self._device.bandwidth_bytes_per_s(num_bytes)
            if is_transfer:
                bandwidth = options.link_bandwidth_bytes_per_s
            ideal_s = max(self.cost.flops / options.peak_flops_per_s, num_bytes / bandwidth)
            self._device.advance(ideal_s / share)
            return ()

        return Subject(
            runs=(run,),
            restore=lambda: None,
            check=lambda: imagined(tolerances, errors),
            recheck=lambda which, outputs: imagined(tolerances, errors),
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


def _act_out(fault: Fault) -> None:
    """Do what the fault says a broken chip does, for those that end a case at once."""
    if fault is Fault.OUT_OF_MEMORY:
        raise torch.OutOfMemoryError("the fake chip is out of memory, as it was asked to be")
    if fault is Fault.ERROR:
        raise RuntimeError("the fake chip failed, as it was asked to")
    if fault is Fault.HANG:
        while True:
            time.sleep(3600)
    if fault is Fault.CRASH:
        os.abort()


def open_workbench(op: Op, problem: Problem, device: Device, seed: int) -> Workbench:
    """The workbench for that device."""
    if isinstance(device, FakeDevice):
        return FakeWorkbench(op, problem, device)
    return TorchWorkbench(op, problem, device, seed)
