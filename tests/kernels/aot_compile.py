"""Compiles every `AOT` kernel for one target without a GPU; prints one JSON object per kernel.

Run by test_aot.py in a process of its own: where TRITON_INTERPRET is set, as it is for the other
tests, `triton.jit` gives functions that cannot be compiled.
"""

import importlib
import json
import sys

import triton
from triton.backends.compiler import GPUTarget

from kernels import registry
from kernels.triton_support import AotKernel


def compile_for(target: GPUTarget, description: AotKernel) -> object:
    signature = {}
    attributes = {}
    for position, (name, text) in enumerate(description.signature.items()):
        signature[name], _, divisor = text.partition(":")
        if divisor:
            attributes[(position,)] = [["tt.divisibility", int(divisor)]]
    source = triton.compiler.ASTSource(
        description.kernel, signature, dict(description.constexprs), attributes
    )
    options = {"num_warps": description.num_warps, "num_stages": description.num_stages}
    return triton.compile(source, target=target, options=options)


def main(family: str, arch: str, warp_size: str) -> None:
    backend = family.partition("_")[0]
    target = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    for name in registry.names():
        for description in importlib.import_module(f"kernels.{name}").AOT:
            if family not in description.families:
                continue
            compiled = compile_for(target, description)
            result = {
                "label": description.label,
                "binary_bytes": len(compiled.asm["cubin" if backend == "cuda" else "hsaco"]),
                "shared_bytes": compiled.metadata.shared,
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
