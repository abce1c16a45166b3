"""TorchWorkbench: inputs of a problem on a real device, and whether results follow from them."""

import contextlib
from dataclasses import replace

import torch

from harness.device.base import Device
from harness.measure.correctness import FP64_DEVICES, compare
from harness.measure.footprint import affordable_sets, num_wanted_sets, require_host_memory
from harness.measure.inputs import Tensors, changing_names, checksum, draw, tolerances
from harness.measure.poison import holds_poison, poison
from harness.measure.policy import MeasurePolicy, Values
from harness.measure.subject import Subject, UnsupportedHere, refuse_values
from harness.record import Correctness
from kernels import triton_support
from kernels.compiled import compiled_once
from kernels.op import Impl, Inputs, Op, Outputs, Problem, Run

NOT_WRITTEN = (
    "An output holds what its memory was filled with before the run: it was not written, or is an "
    "earlier one handed out again."
)

NUM_BLOCKS = 8
"""So many blocks are filled in search of the memory that a wrong run is given."""
BLOCKS_SHARE = 0.25
"""Of the free memory, what these blocks may take."""


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
        refuse_values(self._op, self._policy)
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
            restore=self._restore_set,
            check=lambda: self._check(runs[0]),
            keep=self._keep,
            recheck=lambda which, outputs: self._recheck(found, runs, seen, which, outputs),
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
        outputs = run()
        self._device.synchronize()
        poison(outputs, self._storages())
        del outputs  # The next run is given their memory.
        found = self._compared(run)
        if not found.is_right and not found.finding and self._leaves_memory(run):
            return replace(found, finding=NOT_WRITTEN)
        if found.is_right:
            # Before anything is timed: a lack of memory here must not cost a finished measurement.
            for values in self._values:
                self._reference(values)
        return found

    def _leaves_memory(self, run: Run) -> bool:
        """Whether a wrong run leaves a part of its outputs as it was, wherever they lie.

        The host's allocator need not give a run the memory that was freed last, so that several
        blocks of the size are filled.
        """
        self._restore()
        self._poison_free_memory(run())
        self._restore()
        outputs = run()
        self._device.synchronize()
        return any(holds_poison(output) for output in outputs)

    def _poison_free_memory(self, like: Outputs) -> None:
        """Overwrites several free blocks of the outputs' sizes, as far as there is memory.

        A block that another set's run was given last may hold what the next run should compute.
        What an op overwrites in place has no memory of its own.
        """
        if self._op.mutates:
            return
        num_bytes = sum(output.untyped_storage().nbytes() for output in like)
        free = self._device.available_memory_bytes()
        affordable = NUM_BLOCKS if free is None else int(free * BLOCKS_SHARE) // max(num_bytes, 1)
        blocks: list[torch.Tensor] = []
        with contextlib.suppress(torch.OutOfMemoryError):
            for _ in range(min(NUM_BLOCKS, affordable)):
                for output in like:
                    blocks.append(torch.empty_like(output))
                    poison((blocks[-1],), self._storages())

    def _recheck(
        self,
        impl: Impl,
        runs: tuple[Run, ...],
        seen: tuple[int, ...],
        which: int,
        outputs: Outputs,
    ) -> Correctness:
        """What the last timed run returned, and then what runs on other values do."""
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
        for place, run in enumerate(runs):
            # Before the run, which then has the memory that a timed run had.
            self._reference(self._values[place])
            if impl.packs:
                run = impl.prepare(self._problem, self._sets[place])
            self._poison_free_memory(outputs)
            other = self._compared(run, place, old_values=seen[place])
            if other.is_right:
                continue
            if other.finding:
                return other
            return replace(
                other,
                finding="It was right on the inputs it was timed with, and is wrong on others.",
            )
        return other

    def _compared(self, run: Run, place: int = 0, old_values: int | None = None) -> Correctness:
        """A run on that set against the reference of the values that it holds."""
        self._restore()
        outputs = run()
        self._device.synchronize()
        found = self._judged(outputs, self._values[place], old_values)
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
        elif not found.is_right and any(holds_poison(output) for output in outputs):
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
        poison(outputs, self._storages())
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
            # What a run overwrites may depend on the mode, as a block's does.
            originals = {
                name: tensor.clone() for name, tensor in inputs.items() if name in self._op.mutates
            }
        except torch.OutOfMemoryError:
            # Drawing may need several times what is drawn. One set is enough to measure.
            if not self._sets:
                raise
            self._device.release_memory()
            self._num_affordable = len(self._sets)
            return
        self._sets.append(inputs)
        self._values.append(values)
        self._originals.append(originals)
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
        for which in range(len(self._sets)):
            self._restore_set(which)

    def _restore_set(self, which: int) -> None:
        for name, original in self._originals[which].items():
            self._sets[which][name].copy_(original)

    def _checksums_of(self, inputs: Tensors) -> dict[str, int]:
        names = [name for name in inputs if name not in self._op.mutates]
        if not names:
            return {}
        sums = torch.stack([checksum(inputs[name]) for name in names])
        return dict(zip(names, sums.cpu().tolist(), strict=True))

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


SWAPPED_AT_ONCE = 2**24
"""Elements: little memory is needed in between, however large the tensors are."""


def _swap(one: torch.Tensor, other: torch.Tensor) -> None:
    assert one.is_contiguous(), "inputs are made contiguous"
    assert other.is_contiguous(), "inputs are made contiguous"
    ours, theirs = one.data.view(-1), other.data.view(-1)
    for first in range(0, ours.numel(), SWAPPED_AT_ONCE):
        part = slice(first, first + SWAPPED_AT_ONCE)
        held = ours[part].clone()
        ours[part].copy_(theirs[part])
        theirs[part].copy_(held)


def in_fp64(inputs: Inputs, device: torch.device) -> dict[str, torch.Tensor]:
    """Copies with every floating tensor in fp64; integers stay as they are."""
    return {
        # Moved first: the device of the inputs need not know fp64.
        name: tensor.detach().to(device).to(torch.float64)
        if tensor.is_floating_point()
        else tensor.detach().to(device)
        for name, tensor in inputs.items()
    }
