"""The least work of a problem of a step, those in 4 bits included, which no op computes yet."""

from dataclasses import replace
from functools import lru_cache

from kernels import registry
from kernels.op import Cost, Problem

FP4_BYTES = 0.5 + 1 / 16
"""Of an element of NVFP4: 4 bits, and a scale of one byte for each 16 along the sum.

Source: NVIDIA, Pretraining Large Language Models with NVFP4 (arXiv 2509.25149) section 2.
"""


@lru_cache(maxsize=65536)
def step_cost(problem: Problem) -> Cost:
    """As its op counts it; operands in 4 bits have the bytes of NVFP4.

    A problem in `fp4` is a product or a quantization of a projection. No op has that type, so that
    none is ever measured and its time is always that of the chip's rates.
    """
    cost = registry.cost(problem)
    if problem.dtype != "fp4":
        return cost
    if problem.op == "quantize":
        return replace(cost, bytes_written=_bytes(problem["T"] * problem["H"]))
    operands = problem["M"] * problem["K"] + problem["N"] * problem["K"]
    return replace(cost, bytes_read=_bytes(operands))


def _bytes(num_elements: int) -> int:
    return round(num_elements * FP4_BYTES)
