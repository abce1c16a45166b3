"""What every Triton kernel takes of a GPU, found by compiling it with no GPU there.

    python -m kernels.resources OUT.csv [--targets sm_90,gfx942] [--ops gemm,copy]

Each row has the fingerprint of what its kernel was compiled from. With `--kept TABLE.csv` kernels
that are in that table as they are now are not compiled again, but for one of each op.

Registers, bytes spilled to memory and shared memory come from the compiled binary: of NVIDIA's by
`cuobjdump --dump-resource-usage`, of AMD's from the metadata of the assembly. Blackwell's tensor
memory is what Triton allocated of it. Addresses are read from Triton's own intermediate form: see
`narrow_offsets`.
"""

import argparse
import concurrent.futures
import csv
import functools
import importlib
import itertools
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from kernels import registry
from kernels.fingerprint import fingerprint, ingredients, without_comments
from kernels.triton_support import AotKernel

KIB = 1024

TENSOR_MEMORY_COLUMNS = 512
"""Of a multiprocessor of sm_100, 128 lanes of 32 bits each; PTX ISA, section "Tensor Memory",
https://docs.nvidia.com/cuda/parallel-thread-execution/. Triton refuses a launch that needs more."""


class Target(NamedTuple):
    """An architecture that kernels are compiled for."""

    family: str
    """As in `AotKernel.families`."""
    architecture: str
    warp_size: int
    shared_limit_bytes: int
    """Shared memory that one block may use."""


# NVIDIA: 164, 100 (L40S and RTX 4090; RTX 5090) and 228 KiB per multiprocessor, 1 KiB of each block
# reserved; CUDA C++ Programming Guide, section "Compute Capabilities", table "Technical
# Specifications per Compute Capability",
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/. AMD: 64 KiB of LDS per workgroup on
# CDNA 3, https://rocm.docs.amd.com/en/latest/reference/gpu-arch-specs.html; 160 KiB on CDNA 4,
# https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/white-papers/
# amd-cdna-4-architecture-whitepaper.pdf.
TARGETS = {
    "sm_80": Target("cuda", "80", 32, 163 * KIB),
    "sm_89": Target("cuda_99k", "89", 32, 99 * KIB),
    "sm_90": Target("cuda", "90", 32, 227 * KIB),
    "sm_100": Target("cuda", "100", 32, 227 * KIB),
    "sm_120": Target("cuda_99k", "120", 32, 99 * KIB),
    "gfx942": Target("hip", "gfx942", 64, 64 * KIB),
    "gfx950": Target("hip", "gfx950", 64, 160 * KIB),
}


@dataclass(frozen=True, slots=True)
class Resources:
    """One kernel on one target."""

    op: str
    kernel: str
    target: str
    num_warps: int
    num_stages: int
    registers_per_thread: int
    spilled_bytes_per_thread: int
    """Stack of a thread in memory: a kernel without arrays of its own has one for spills only."""
    shared_bytes: int
    shared_limit_bytes: int
    tensor_memory_columns: int
    """Of `TENSOR_MEMORY_COLUMNS`; 0 where there is none."""
    narrow_offsets: str
    """Pointer arguments whose addresses may overflow 32 bits, separated by blanks."""
    fingerprint: str = ""
    """Of what the kernel was compiled from and of this row, as `sealed` gives it."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with it, a sentence each."""
        name = f"{self.kernel} on {self.target}"
        found = []
        if self.spilled_bytes_per_thread:
            found.append(f"{name} spills {self.spilled_bytes_per_thread} bytes a thread.")
        if self.shared_bytes > self.shared_limit_bytes:
            found.append(
                f"{name} needs {self.shared_bytes} bytes of shared memory, and a block may use "
                f"{self.shared_limit_bytes}."
            )
        if self.tensor_memory_columns > TENSOR_MEMORY_COLUMNS:
            found.append(
                f"{name} needs {self.tensor_memory_columns} columns of tensor memory, and a "
                f"multiprocessor has {TENSOR_MEMORY_COLUMNS}."
            )
        if self.narrow_offsets:
            found.append(f"{name} computes 32-bit offsets into {self.narrow_offsets}.")
        return tuple(found)


def descriptions(op: str) -> tuple[AotKernel, ...]:
    """The kernels of an op as its file describes them."""
    found: tuple[AotKernel, ...] = getattr(importlib.import_module(f"kernels.{op}"), "AOT", ())
    return found


def compile_for(target: Target, description: AotKernel) -> Any:
    """The kernel compiled for a target, as `triton.compile` returns it."""
    # Here, since this file is read where Triton is not installed, too.
    import triton
    from triton.backends.compiler import GPUTarget

    signature, attributes = {}, {}
    for position, (name, text) in enumerate(description.signature.items()):
        signature[name], _, divisor = text.partition(":")
        if divisor:
            attributes[(position,)] = [["tt.divisibility", int(divisor)]]
    source = triton.compiler.ASTSource(
        description.kernel, signature, dict(description.constexprs), attributes
    )
    backend = target.family.partition("_")[0]
    architecture = int(target.architecture) if backend == "cuda" else target.architecture
    return triton.compile(
        source,
        target=GPUTarget(backend, architecture, target.warp_size),
        options={"num_warps": description.num_warps, "num_stages": description.num_stages},
    )


def described_for(op: str, target_name: str) -> list[AotKernel]:
    """The kernels of the op that are launched on devices of the target's family."""
    families = {TARGETS[target_name].family, target_name}
    return [one for one in descriptions(op) if families & set(one.families)]


def resources_of(op: str, target_name: str, labels: Iterable[str]) -> list[Resources]:
    """The kernels of the op with those labels, compiled for the target."""
    by_label = {description.label: description for description in described_for(op, target_name)}
    return [_resources(op, target_name, by_label[label]) for label in labels]


def _resources(op: str, target_name: str, description: AotKernel) -> Resources:
    target = TARGETS[target_name]
    compiled = compile_for(target, description)
    is_nvidia = "cubin" in compiled.asm
    binary = compiled.asm["cubin" if is_nvidia else "hsaco"]
    registers, spilled = _nvidia_usage(binary) if is_nvidia else _amd_usage(compiled.asm["amdgcn"])
    row = Resources(
        op=op,
        kernel=description.label,
        target=target_name,
        num_warps=description.num_warps,
        num_stages=description.num_stages,
        registers_per_thread=registers,
        spilled_bytes_per_thread=spilled,
        shared_bytes=compiled.metadata.shared,
        shared_limit_bytes=target.shared_limit_bytes,
        # AMD's metadata have no such word, and NVIDIA's may say None.
        tensor_memory_columns=getattr(compiled.metadata, "tmem_size", None) or 0,
        narrow_offsets=" ".join(
            sorted(narrow_offsets(compiled.asm["ttir"]) - set(description.small))
        ),
    )
    return sealed(row, description)


def sealed(row: Resources, description: AotKernel) -> Resources:
    """The row with the fingerprint of itself, its kernel, the compiler and how it was read."""
    # Here, since this file is read where Triton is not installed, too.
    import triton

    row = replace(row, fingerprint="")
    parts = (triton.__version__, _reading(), TARGETS[row.target], ingredients(description))
    return replace(row, fingerprint=fingerprint((*parts, astuple(row))))


@functools.cache
def _reading() -> str:
    """Of the code that compiles a kernel and reads its resources."""
    functions: list[Callable[..., object]] = [
        compile_for,
        _resources,
        _nvidia_usage,
        _amd_usage,
        narrow_offsets,
    ]
    patterns = (_DEFINED, _VALUE, _POINTER_ARGUMENT, _LOOP_VARIABLE)
    return fingerprint((*map(without_comments, functions), *(one.pattern for one in patterns)))


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert usage is not None, text
    registers, stack, local = map(int, usage.groups())
    return registers, stack + local


def _amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers of a lane, and bytes of its private memory.

    Scalar registers that do not fit go to lanes of vector registers, not to memory.
    """

    def value(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        assert found is not None, f"no .{name} in the assembly"
        return int(found[1])

    return value("vgpr_count"), value("private_segment_fixed_size")


_DEFINED = re.compile(r"^\s*(%[\w$.-]+)(?::\d+)? = ([\w.]+)(.*)$")
_VALUE = re.compile(r"%[\w$.-]+")
_POINTER_ARGUMENT = re.compile(r"(%\w+): !tt\.ptr<")
_LOOP_VARIABLE = re.compile(r"(%[\w$.-]+) = (%[\w$.-]+)")


def narrow_offsets(ttir: str) -> set[str]:
    """Pointer arguments to which a 32-bit offset is added that grows with the tensor.

    Such an offset comes from a program id or from an index that was loaded, and has not been
    widened: with more than 2^31 elements it overflows. It is fine where the pointer was already
    moved by a 64-bit offset, since what is left lies within one tile or one row.

    Args:
        ttir: A kernel in Triton's intermediate form, all its functions inlined.
    """
    arguments = set(_POINTER_ARGUMENT.findall(ttir.partition("attributes")[0]))
    # Where each pointer came from, and whether a 64-bit offset has moved it.
    pointers = {name: (name.removeprefix("%"), False) for name in arguments}
    growing: set[str] = set()
    narrow: set[str] = set()
    for line in ttir.splitlines():
        line = line.partition(" loc(")[0]
        if "iter_args(" in line:
            for name, start in _LOOP_VARIABLE.findall(line.partition("iter_args(")[2]):
                if start in pointers:
                    pointers[name] = pointers[start]
                if start in growing:
                    growing.add(name)
        if "scf.for" in line:
            bounds = _VALUE.findall(line.partition("scf.for")[2].partition("iter_args")[0])
            if growing & set(bounds[1:2]):
                growing.add(bounds[0])
        defined = _DEFINED.match(line)
        if defined is None:
            continue
        name, operation, rest = defined.groups()
        operands = _VALUE.findall(rest)
        is_wide = "i64" in rest.rpartition(" : ")[2]
        if operation == "tt.addptr":
            argument, is_moved = pointers.get(operands[0], ("", True))
            offset_is_wide = rest.rstrip().endswith(("i64", "i64>"))
            if operands[1] in growing and not offset_is_wide and not is_moved:
                narrow.add(argument)
            pointers[name] = (argument, is_moved or offset_is_wide)
        elif operands and operands[0] in pointers and operation != "tt.load":
            pointers[name] = pointers[operands[0]]
        elif operation == "tt.get_program_id":
            growing.add(name)
        elif operation == "tt.load":
            if re.search(r"ptr<i32>", rest):
                growing.add(name)
        elif not is_wide and growing & set(operands):
            growing.add(name)
    return narrow


Key = tuple[str, str, str]
"""Op, label of the kernel and target."""


def unchanged(
    kept: Iterable[Resources], ops: Sequence[str], targets: Sequence[str]
) -> dict[Key, Resources]:
    """The rows that say of a kernel as it is now what was found when it was compiled.

    One kernel of each op is left out, the targets taking turns, so that a compiler that is missing
    or gives another result is noticed where no kernel was changed.
    """
    by_key = {(row.op, row.kernel, row.target): row for row in kept}
    found = {}
    for index, op in enumerate(ops):
        for target in targets:
            described = described_for(op, target)
            again = described[0] if target == targets[index % len(targets)] and described else None
            for description in described:
                key = (op, description.label, target)
                row = by_key.get(key)
                if description is not again and row and row == sealed(row, description):
                    found[key] = row
    return found


def _survey(
    ops: Sequence[str],
    targets: Sequence[str],
    num_processes: int,
    known: Mapping[Key, Resources],
) -> Iterable[list[Resources]]:
    """The kernels of each op on each target; what is not known is compiled, so many at once."""
    # Spawned, so that each imports Triton by itself; the targets of one op are told apart.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        tasks = {}
        for op, target in itertools.product(ops, targets):
            labels = [one.label for one in described_for(op, target)]
            missing = [label for label in labels if (op, label, target) not in known]
            task = pool.submit(resources_of, op, target, missing) if missing else None
            tasks[op, target] = labels, task
        for (op, target), (labels, task) in tasks.items():
            new = {row.kernel: row for row in task.result()} if task else {}
            yield [new.get(label) or known[op, label, target] for label in labels]


def write_table(path: Path, table: Iterable[Resources]) -> None:
    """The resources as CSV with a line of column names."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Resources))
        writer.writerows(astuple(one) for one in table)


def read_table(path: Path) -> list[Resources]:
    """The resources of a file that `write_table` wrote."""
    is_number = {
        field.name: field.type == "int" or field.type is int for field in fields(Resources)
    }
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Resources(
                **{
                    name: int(value) if is_number[name] else value  # type: ignore[arg-type]
                    for name, value in row.items()
                }
            )
            for row in csv.DictReader(file)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; exit 1 when a kernel spills or does not fit, all of which are told."""
    parser = argparse.ArgumentParser(prog="python -m kernels.resources", description=__doc__)
    parser.add_argument("out", type=Path, help="the CSV file to write")
    parser.add_argument("--targets", default=",".join(TARGETS), help="all by default")
    parser.add_argument("--ops", default=",".join(registry.names()), help="all by default")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kept", type=Path, help="a table; what it still says is not compiled")
    options = parser.parse_args(arguments)
    ops, targets = options.ops.split(","), options.targets.split(",")
    known = unchanged(read_table(options.kept), ops, targets) if options.kept else {}
    table: list[Resources] = []
    for found in _survey(ops, targets, options.processes, known):
        table += found
        if found:
            print(f"{found[0].op} {found[0].target}: {len(found)} kernels", flush=True)
    write_table(options.out, table)
    faults = [fault for one in table for fault in one.faults]
    num_compiled = len(table) - len(known)
    print(f"{num_compiled} kernels compiled, {len(faults)} faults.", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
