"""What the tests of ops share: the device, odd sizes, and agreement with the fp64 reference."""

from collections.abc import Callable, Mapping

import pytest
import torch

from harness.config.specs import load_data
from harness.measure.correctness import compare
from kernels import dtypes
from kernels.op import Impl, Inputs, Mode, Op, Outputs, Problem, Tolerance, problem

DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")

needs_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cpu", reason="there is no accelerator here"),
)
"""Marks of a test that the interpreter cannot stand in for."""

SIZES: Mapping[str, Mapping[str, int]] = {
    str(check["op"]): check["axes"] for check in load_data("suite", "correctness")["checks"]
}
"""Sizes that no tile divides, more than one tile in at least one axis: what a GPU is checked at."""


GROWING: Mapping[str, Mapping[str, int]] = {
    "attention": {"H": 60, "G": 1, "Q": 8, "S": 64},
    "dense_layer": {"A": 60, "G": 1},
    # More experts than are chosen.
    "moe_layer": {"A": 60, "G": 1, "E": 64},
    # Eight groups of experts, more of them than are chosen.
    "latent_moe_layer": {"E": 64},
    # Rows for every expert, in each variant.
    "grouped_gemm": {"R": 320, "E": 4, "N": 4, "K": 4},
    # Eight groups, four of which hold enough experts.
    "moe_route": {"T": 4, "E": 64, "K": 4},
    "int4_gemm": {"K": 128},
    "mla_decode": {"S": 64},
    "mla_prefill": {"Q": 8, "S": 64},
    "paged_decode": {"H": 60, "G": 1, "S": 64},
    "paged_prefill": {"H": 60, "G": 1, "Q": 8, "S": 64},
    "varlen_attention": {"H": 60, "G": 1, "T": 64},
    "window_attention": {"H": 60, "G": 1, "Q": 8, "S": 64, "W": 8},
}
"""Sizes to grow each axis from by up to five times, where not all can be 4: head counts stay
multiples of each other, and queries fewer than keys."""

STILL: Mapping[str, Mapping[str, frozenset[str]]] = {
    # Key/value heads are shared: more of them move more bytes and multiply nothing more.
    "attention": {"G": frozenset({"flops"})},
    "paged_decode": {"G": frozenset({"flops"}), "P": frozenset({"flops"})},
    "paged_prefill": {"G": frozenset({"flops"}), "P": frozenset({"flops"})},
    "mla_decode": {"P": frozenset({"flops"})},
    "varlen_attention": {"G": frozenset({"flops"})},
    # A window is no tensor, and keys before it are in no pair.
    "window_attention": {
        "G": frozenset({"flops"}),
        "S": frozenset({"flops"}),
        "W": frozenset({"bytes"}),
    },
    # T rows are looked up, however many the table has; its gradient has them all.
    "embedding": {"V": frozenset({"flops", "bytes forward"})},
    # Rows are multiplied with one expert each, however many there are.
    "grouped_gemm": {"E": frozenset({"flops"})},
    "latent_moe_layer": {"K": frozenset({"bytes"})},
    # Weights of all experts are read once for however many of their tokens.
    "moe_layer": {"K": frozenset({"bytes"})},
    # Rows are moved once each, wherever they lie.
    "moe_permute": {"E": frozenset({"flops", "bytes"})},
    "moe_unpermute": {"E": frozenset({"flops", "bytes"})},
    # Rows of T tokens are written, however large the cache is.
    "kv_cache_write": {axis: frozenset({"flops", "bytes"}) for axis in ("N", "P")},
}
"""What of a cost does not grow with an axis, in every mode or in the one named."""


def _sum_of_residual(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # The backward pass reads x + r, which the forward pass has written, and neither of the two.
    return {"r": inputs["r"][:0]} if "dh" in inputs else {}


FALLING: Mapping[str, Mapping[str, frozenset[str]]] = {
    # Larger pages need fewer entries of the page table.
    name: {"P": frozenset({"bytes"})}
    for name in ("mla_decode", "paged_decode", "paged_prefill")
} | {
    # As many tokens in more sequences are in fewer pairs.
    "varlen_attention": {"B": frozenset({"flops"})},
}
"""What of a cost falls where an axis grows."""


def _cached(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of each paged cache the positions that its sequences have."""
    lengths = inputs["lengths"].tolist()
    return {
        name: torch.cat(
            [
                inputs[name][pages].flatten(0, 1)[:length]
                for pages, length in zip(inputs["page_table"], lengths, strict=True)
            ]
        )
        for name in inputs
        if name.endswith("cache")
    }


PARTLY_READ: Mapping[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "add_layer_norm": _sum_of_residual,
    "add_rms_norm": _sum_of_residual,
    "embedding": lambda inputs: {"table": inputs["table"][inputs["ids"]]},
    # Experts without rows are not read.
    "grouped_gemm": lambda inputs: {
        name: tensor[inputs["offsets"].diff() > 0] for name, tensor in inputs.items() if name == "w"
    },
    # The rows that are not written stay as they are.
    "kv_cache_write": lambda inputs: {name: inputs[name][:0] for name in ("k_cache", "v_cache")},
    # The host's side of a copy is no traffic of the device.
    "host_to_device": lambda inputs: {"x": inputs["x"][:0]},
    "mla_decode": _cached,
    "paged_decode": _cached,
    "paged_prefill": _cached,
}
"""What is read of an input that is not read whole."""

SHARED_GRADIENTS: Mapping[str, Mapping[str, str]] = {
    "add_layer_norm": {"r": "x"},
    "add_rms_norm": {"r": "x"},
}
"""Operands whose gradient is that of another, and which the backward mode therefore leaves out."""

TRANSFERS = ("device_to_host", "host_to_device")
"""Ops without a kernel: the device's copy engine does the work."""

NOWHERE: Mapping[tuple[str, str], frozenset[str]] = {
    (name, impl): frozenset(dtypes.ALL) for name in TRANSFERS for impl in ("compile", "triton")
} | {
    ("grouped_gemm", "compile"): frozenset({"fp16", "fp32"}),
    ("latent_moe_layer", "compile"): frozenset({"fp16", "fp32"}),
    ("moe_layer", "compile"): frozenset({"fp16", "fp32"}),
}
"""Types that an implementation of an op can run on no device, and says so."""

NOT_ON_CPU: Mapping[str, frozenset[str]] = {
    # It is its own host.
    **dict.fromkeys(TRANSFERS, frozenset(dtypes.ALL)),
    "gemm": frozenset({"tf32"}),
    "scaled_gemm": frozenset({"block"}),
}
"""Types and variants that torch cannot compute an op in on a CPU; the interpreter can."""

PARTLY_WRITTEN: Mapping[str, Callable[[Inputs, Outputs], Outputs]] = {
    "device_to_host": lambda inputs, outputs: tuple(output[:0] for output in outputs),
    "kv_cache_write": lambda inputs, outputs: tuple(
        cache.flatten(0, 1)[inputs["slot"]] for cache in outputs
    ),
}
"""What is written of the outputs of an op that does not write them whole."""


def odd_problem(op: Op, dtype: str, mode: Mode, variant: str = "") -> Problem:
    """The op at its odd sizes, in its first variant unless told another."""
    assert op.name in SIZES, (
        f"add odd sizes of {op.name!r} to configs/suite/correctness.yaml, one for each of "
        f"{', '.join(op.axes)}"
    )
    sizes = {axis: SIZES[op.name][axis] for axis in op.axes}
    return problem(op.name, dtype, mode, variant or op.variants[0], **sizes)


def is_beyond_torch(impl: Impl, case: Problem) -> bool:
    """Whether torch itself cannot run the case on this device, and has to say so."""
    missing = NOWHERE.get((case.op, impl.name), frozenset())
    if impl.name in ("torch", "compile") and DEVICE.type == "cpu":
        missing |= NOT_ON_CPU.get(case.op, frozenset())
    return not missing.isdisjoint({case.dtype, case.variant})


def exact_dtype(op: Op) -> str:
    """The type of the op that the interpreter multiplies right, the most exact one.

    int8 before fp8, on which `torch.library.opcheck` cannot compute on a CPU.
    """
    return next(name for name in ("fp32", "fp16", "int8", *op.dtypes) if name in op.dtypes)


def inputs_of(op: Op, case: Problem, seed: int = 0) -> dict[str, torch.Tensor]:
    return op.make_inputs(case, torch.Generator(DEVICE).manual_seed(seed))


def expected(op: Op, case: Problem, inputs: Inputs) -> Outputs:
    """The reference on fp64 copies of the inputs."""
    exact = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in inputs.items()
    }
    return op.reference(case, exact)


def assert_within(outputs: Outputs, references: Outputs, tolerances: tuple[Tolerance, ...]) -> None:
    """What a case is held to before it is timed."""
    correctness = compare(outputs, references, tolerances)
    assert correctness.is_right, correctness.explanation


def run_triton(op: Op, case: Problem, seed: int = 0) -> None:
    """Runs the Triton implementation and holds it to the fp64 reference."""
    impl = op.impl("triton")
    assert impl.unsupported(case, DEVICE) is None
    inputs = inputs_of(op, case, seed)
    references = expected(op, case, inputs)
    assert_within(impl.prepare(case, inputs)(), references, op.tolerance(case))
