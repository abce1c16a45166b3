"""A case made ready: what to run, what to restore, how to check it."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from harness.device.base import Device
from harness.device.fake import FakeDevice
from harness.device.request import Fault
from harness.errors import ChipscaleError
from harness.measure.correctness import FP64_DEVICES, compare, imagined
from harness.measure.footprint import affordable_sets, num_wanted_sets, require_host_memory
from harness.measure.inputs import Tensors, changing_names, draw, tolerances
from harness.measure.policy import MeasurePolicy, Values
from harness.record import Correctness
from kernels import dtypes, registry, triton_support, tuning
from kernels.compiled import compiled_once
from kernels.op import Cost, Impl, Inputs, Op, Outputs, Problem, Run

NOT_WRITTEN = (
    "An output holds what its memory was filled with before the run: it was not written, or is an "
    "earlier one handed out again."
)

NUM_BLOCKS = 8
"""So many blocks are filled in search of the memory that a wrong run is given."""


class UnsupportedHere(ChipscaleError):  # noqa: N818 - it is a state, told as one
    """The implementation cannot run on this device; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One implementation of one problem, ready to be checked and timed."""

    runs: tuple[Callable[[], Outputs], ...]
    """The timed work, once for each set of inputs; each may be called any number of times."""
    restore: Callable[[], None]
    """Puts back what runs overwrote; called before every run, outside the timed part."""
    check: Callable[[], Correctness]
    """Runs on the first set of inputs and compares with the fp64 reference."""
    keep: Callable[[Outputs], Outputs] = lambda outputs: outputs
    """The outputs of a run, with copies of those that are overwritten inputs, for `recheck`."""
    recheck: Callable[[int, Outputs], Correctness]
    """Compares with the fp64 reference what a timed run on that set of inputs returned, and then
    a run on values that the implementation has not seen."""


class Workbench(Protocol):
    """Everything the implementations of one problem share: inputs and references."""

    cost: Cost

    def subject(self, impl: str) -> Subject:
        """The implementation made ready; raises UnsupportedHere."""


class TorchWorkbench:
    """Real tensors on a real device.

    There are sets of inputs, and values that they hold: the nth values come from the nth seed, and
    each has its reference. Once an implementation was timed, sets exchange their values.
    """

    def __init__(self, op: Op, problem: Problem, device: Device, policy: MeasurePolicy) -> None:
        """Draws the inputs.

        Raises:
            NotEnoughMemory: when there is not enough for one set; nothing was allocated.
        """
        self.cost = op.cost(problem)
        self._op = op
        self._problem = problem
        self._device = device
        self._policy = policy
        self._sets: list[Tensors] = []
        self._values: list[int] = []
        """Which values each set holds."""
        self._originals: list[Tensors] = []
        """Of each set, copies of what runs overwrite."""
        self._checksums: list[dict[str, int]] = []
        """Of each set, those of what no run may overwrite."""
        self._references: dict[int, Outputs] = {}
        wanted = num_wanted_sets(policy)
        # Values that an implementation has not seen need room too, where it is timed on one set.
        self._num_affordable = affordable_sets(op, problem, device, max(wanted, 2))
        for values in range(min(wanted, self._num_affordable)):
            self._add_set(values)
        self._changing = changing_names(op, problem, self._sets[0])

    def subject(self, impl: str) -> Subject:
        """The implementation made ready; compiles, where it compiles."""
        found = self._op.impl(impl)
        _refuse_values(self._op, self._policy)
        if impl == "triton" and triton_support.INTERPRETED:
            raise UnsupportedHere(
                "TRITON_INTERPRET=1 makes Triton interpret its kernels, and the interpreter's time "
                "says nothing of the chip; unset it."
            )
        reason = found.unsupported(self._problem, self._device.torch_device)
        if reason is not None:
            raise UnsupportedHere(reason)
        with compiled_once():
            runs = tuple(found.prepare(self._problem, inputs) for inputs in self._sets)
        seen = tuple(self._values)
        return Subject(
            runs=runs,
            restore=self._restore,
            check=lambda: self._check(runs[0]),
            keep=self._keep,
            recheck=lambda which, outputs: self._recheck(found, runs[0], seen, which, outputs),
        )

    def _check(self, run: Run) -> Correctness:
        """What becomes of a run whose memory holds nothing that could be taken for a result."""
        overwritten = self._overwritten()
        if overwritten:
            return self._redrawn_after(overwritten)
        # The reference comes first: outputs may be the inputs themselves, as an optimizer's
        # are, and computing it restores those.
        self._reference(self._values[0])
        self._restore()
        self._poison(run())
        found = self._compared(run)
        if not found.is_right and not found.finding and self._leaves_memory(run):
            return replace(found, finding=NOT_WRITTEN)
        return found

    def _leaves_memory(self, run: Run) -> bool:
        """Whether a wrong run leaves a part of its outputs as it was, wherever they lie.

        The host's allocator need not give a run the memory that was freed last, so that several
        blocks of the size are filled.
        """
        self._restore()
        self._poison_free_memory(run())
        self._restore()
        return any(_holds_poison(output) for output in run())

    def _poison_free_memory(self, like: Outputs) -> None:
        """Overwrites several free blocks of the outputs' sizes, as far as there is memory.

        A block that another set's run was given last may hold what the next run should compute.
        """
        with contextlib.suppress(torch.OutOfMemoryError):
            self._poison(
                tuple(torch.empty_like(output) for _ in range(NUM_BLOCKS) for output in like)
            )

    def _recheck(
        self, impl: Impl, run: Run, seen: tuple[int, ...], which: int, outputs: Outputs
    ) -> Correctness:
        """What the last timed run returned, and then what a run on other values does."""
        overwritten = self._overwritten()
        if overwritten:
            return self._redrawn_after(overwritten)
        timed = self._judged(outputs, seen[which])
        if not timed.is_right:
            finding = "It was right when it was checked, and the last timed run is wrong. "
            return replace(timed, finding=(finding + timed.finding).strip())
        if self._values[0] == seen[0]:
            self._exchange()
        if self._values[0] == seen[0]:
            return timed  # There are no other values, or no room for them.
        # Before the run, which then has the memory that a timed run had.
        self._reference(self._values[0])
        if impl.packs:
            run = impl.prepare(self._problem, self._sets[0])
        self._poison_free_memory(outputs)
        other = self._compared(run, old_values=seen[0])
        if other.is_right or other.finding:
            return other
        return replace(
            other, finding="It was right on the inputs it was timed with, and is wrong on others."
        )

    def _compared(self, run: Run, old_values: int | None = None) -> Correctness:
        """A run on the first set against the reference of the values that it holds."""
        self._restore()
        outputs = run()
        self._device.synchronize()
        found = self._judged(outputs, self._values[0], old_values)
        overwritten = self._overwritten()
        return self._redrawn_after(overwritten) if overwritten else found

    def _judged(self, outputs: Outputs, values: int, old_values: int | None = None) -> Correctness:
        """Outputs against the reference of these values; their memory holds no result after it."""
        bounds = tolerances(self._op, self._problem, self._policy)
        found = compare(outputs, self._reference(values), bounds)
        borrowed = self._inputs_among(outputs)
        if borrowed:
            found = replace(
                found,
                finding=f"An output is the input {borrowed[0]} itself, into which nothing was "
                "computed.",
            )
        elif not found.is_right and any(_holds_poison(output) for output in outputs):
            found = replace(
                found,
                finding=NOT_WRITTEN,
            )
        elif (
            not found.is_right
            and old_values is not None
            and compare(outputs, self._reference(old_values), bounds).is_right
        ):
            found = replace(
                found,
                finding="It returned the result of earlier values of its inputs, which had "
                "changed since: it remembers results.",
            )
        self._poison(outputs)
        return found

    def _inputs_among(self, outputs: Outputs) -> list[str]:
        """Names of inputs that no run may overwrite and whose memory an output is in."""
        used = {output.untyped_storage().data_ptr() for output in outputs if output.numel()}
        return [
            name
            for inputs in self._sets
            for name, tensor in inputs.items()
            if name not in self._op.mutates and tensor.untyped_storage().data_ptr() in used
        ]

    def _poison(self, outputs: Outputs) -> None:
        """Overwrites the outputs of a run, whose memory the next run is given again.

        An allocator hands out the block that was freed last, and it may hold the right result of
        another implementation: a kernel that leaves a part of its output as it is would be right.
        """
        own = self._storages()
        for output in outputs:
            storage = output.untyped_storage()
            if storage.data_ptr() not in own:
                held = torch.empty(0, dtype=torch.uint8, device=output.device).set_(storage)
                held.fill_(_poison_byte(output))

    def _keep(self, outputs: Outputs) -> Outputs:
        own = self._storages()
        return tuple(
            # On the host, out of the peak that is measured.
            output.detach().to("cpu", copy=True)
            if output.untyped_storage().data_ptr() in own
            else output
            for output in outputs
        )

    def _storages(self) -> set[int]:
        return {
            tensor.untyped_storage().data_ptr()
            for inputs in self._sets
            for tensor in inputs.values()
        }

    def _add_set(self, values: int) -> None:
        try:
            inputs = self._drawn(values)
        except torch.OutOfMemoryError:
            # Drawing may need several times what is drawn. One set is enough to measure.
            if not self._sets:
                raise
            self._device.release_memory()
            self._num_affordable = len(self._sets)
            return
        self._sets.append(inputs)
        self._values.append(values)
        # What a run overwrites may depend on the mode, as a block's does.
        self._originals.append(
            {name: tensor.clone() for name, tensor in inputs.items() if name in self._op.mutates}
        )
        self._checksums.append(self._checksums_of(inputs))

    def _drawn(self, values: int) -> Tensors:
        """These values, which differ from others in what may change and in nothing else."""
        inputs = draw(self._op, self._problem, self._policy, self._device.torch_device, values)
        if self._sets:
            first = self._sets[0] | self._originals[0]
            changing = changing_names(self._op, self._problem, inputs)
            for name in inputs.keys() - set(changing):
                inputs[name].copy_(first[name])
        return inputs

    def _exchange(self) -> None:
        """Give the first set other values: those of the second, or others where there is none.

        In place and past autograd, since what was prepared holds these very tensors.
        """
        if self._policy.inputs is Values.ZEROS or not self._changing:
            return
        if len(self._sets) > 1:
            for name in self._changing:
                where = self._originals if name in self._originals[0] else self._sets
                _swap(where[0][name], where[1][name])
            self._values[0], self._values[1] = self._values[1], self._values[0]
            self._checksums[0], self._checksums[1] = self._checksums[1], self._checksums[0]
            return
        if self._num_affordable < 2:
            return
        try:
            inputs = self._drawn(1 - self._values[0])
        except torch.OutOfMemoryError:
            self._device.release_memory()
            return
        self._fill(0, inputs, 1 - self._values[0])

    def _fill(self, which: int, inputs: Tensors, values: int) -> None:
        for name, tensor in inputs.items():
            self._sets[which][name].data.copy_(tensor)
            if name in self._originals[which]:
                self._originals[which][name].copy_(tensor)
        self._values[which] = values
        self._checksums[which] = self._checksums_of(inputs)

    def _restore(self) -> None:
        for inputs, originals in zip(self._sets, self._originals, strict=True):
            for name, original in originals.items():
                inputs[name].copy_(original)

    def _checksums_of(self, inputs: Tensors) -> dict[str, int]:
        names = [name for name in inputs if name not in self._op.mutates]
        if not names:
            return {}
        sums = torch.stack([_checksum(inputs[name]) for name in names])
        return dict(zip(names, sums.tolist(), strict=True))

    def _overwritten(self) -> tuple[str, ...]:
        """Inputs that a run has overwritten and must not."""
        return tuple(
            name
            for inputs, before in zip(self._sets, self._checksums, strict=True)
            for name, checksum in self._checksums_of(inputs).items()
            if checksum != before[name]
        )

    def _redrawn_after(self, overwritten: tuple[str, ...]) -> Correctness:
        """What to say of that, with the inputs drawn again for the other implementations."""
        first = draw(self._op, self._problem, self._policy, self._device.torch_device, 0)
        for which, values in enumerate(self._values):
            inputs = first
            if values:
                inputs = draw(
                    self._op, self._problem, self._policy, self._device.torch_device, values
                )
                inputs |= {name: first[name] for name in first.keys() - set(self._changing)}
            self._fill(which, inputs, values)
        names = " and ".join(dict.fromkeys(overwritten))
        return Correctness(
            outputs=(),
            finding=f"A run has overwritten its input {names}, which has to stay as it is.",
        )

    def _reference(self, values: int) -> Outputs:
        """The fp64 reference of these values, computed once and shared by all implementations."""
        if values not in self._references:
            self._restore()
            inputs = self._sets[self._values.index(values)]
            device = self._device.torch_device
            # Only these are known to compute in fp64; elsewhere the host's processor does.
            where = device if device.type in FP64_DEVICES else torch.device("cpu")
            try:
                self._references[values] = self._referred(inputs, where)
            except torch.OutOfMemoryError:
                # The reference needs several times the memory of what is measured.
                self._device.release_memory()
                require_host_memory(self._op, self._problem)
                self._references[values] = self._referred(inputs, torch.device("cpu"))
        return self._references[values]

    def _referred(self, inputs: Tensors, where: torch.device) -> Outputs:
        """The reference computed there and kept on the host, out of the peak that is measured."""
        outputs = self._op.reference(self._problem, in_fp64(inputs, where))
        return tuple(output.cpu() for output in outputs)


def _refuse_values(op: Op, policy: MeasurePolicy) -> None:
    if op.only_normal and policy.inputs is not Values.NORMAL:
        raise UnsupportedHere(
            f"{op.name} is not measured with inputs={policy.inputs}: {op.only_normal}"
        )


def _swap(one: torch.Tensor, other: torch.Tensor) -> None:
    held = one.clone()
    one.data.copy_(other)
    other.data.copy_(held)


def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of the bits as integers of 64, which wraps: any one element that changes shows."""
    bits = tensor.detach().reshape(-1).view(torch.uint8)
    whole = bits.numel() // 8 * 8
    return bits[:whole].view(torch.int64).sum() + bits[whole:].sum(dtype=torch.int64)


def _poison_byte(output: torch.Tensor) -> int:
    """A NaN in every floating type, and no likely number in any other."""
    return 0x7F if output.itemsize == 1 else 0xFF


def _holds_poison(output: torch.Tensor) -> bool:
    """Whether an element is what `_poison` leaves; a computed NaN has other bits.

    Of integers of 8 bits it cannot be told: 127 is a likely number.
    """
    if not output.numel() or output.dtype in (torch.int8, torch.uint8):
        return False
    bits = output.detach().contiguous().view(-1).view(torch.uint8).view(-1, output.itemsize)
    return bool((bits == _poison_byte(output)).all(dim=-1).any())


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
        _refuse_values(self._op, self._policy)
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
            restore=lambda: None,
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


def open_workbench(op: Op, problem: Problem, device: Device, policy: MeasurePolicy) -> Workbench:
    """The workbench for that device.

    Raises:
        NotEnoughMemory: when the device or the host has too little for the problem.
    """
    if isinstance(device, FakeDevice):
        return FakeWorkbench(op, problem, device, policy)
    return TorchWorkbench(op, problem, device, policy)
