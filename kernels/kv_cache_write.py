"""KV-cache write: k_cache.view(N*P,G,D)[slot[T]] = k[T,G,D], and v[T,G,D] into v_cache alike.

Shape letters: T tokens, N pages, P tokens of a page, G key-value heads, D head dim. The caches are
k_cache[N,P,G,D] and v_cache[N,P,G,D], slots are int64, page * P + place in the page. No two tokens
have the same slot. A slot outside the cache writes nothing, as -1 does for a token of padding.
In `fp8` k and v are bf16 and the caches E4M3: value / scale rounded to nearest even and saturated
at 448, with scale[2] in fp32, of all keys and of all values. The reference leaves them unrounded.
Counted: no FLOPs, in `fp8` 1 per value, a division. Bytes: k, v, slots and scales read, T rows of
each cache written; what is in the other rows of a cache is neither read nor written.
Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with
PagedAttention", section 4.2, https://arxiv.org/abs/2309.06180.
"""

import torch

from kernels import dtypes, eight_bit
from kernels.compiled import compiled
from kernels.eight_bit import as_bits, to_eight_bits
from kernels.op import Cost, Impl, Inputs, Mode, Op, Outputs, Problem, Run, Tolerance
from kernels.triton_support import (
    AotKernel,
    cdiv,
    require_contiguous,
    require_dtype,
    tl,
    triton,
    triton_unsupported,
)

# 8 values per thread: one 16-byte access of a 16-bit type. 8 heads of 128 are one block.
_BLOCK = 1024
_NUM_WARPS = 4


@triton.jit
def _write_kernel(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slot_ptr, scale_ptr, num_slots, width,
    BLOCK: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slot_ptr + token)
    mask = (columns < width) & (slot >= 0) & (slot < num_slots)
    k = tl.load(k_ptr + token * width + columns, mask=mask, other=0.0)
    v = tl.load(v_ptr + token * width + columns, mask=mask, other=0.0)
    if KIND != "as it is":
        k = to_eight_bits(k.to(tl.float32) * (1.0 / tl.load(scale_ptr)), KIND)
        v = to_eight_bits(v.to(tl.float32) * (1.0 / tl.load(scale_ptr + 1)), KIND)
    tl.store(k_cache_ptr + slot * width + columns, k, mask=mask)
    tl.store(v_cache_ptr + slot * width + columns, v, mask=mask)


def _check(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot: torch.Tensor,
    scale: torch.Tensor | None,
) -> None:
    op = "kv_cache_write"
    require_contiguous(op, k=k, v=v, k_cache=k_cache, v_cache=v_cache, slot=slot)
    require_dtype(op, k.dtype, v=v)
    if k.ndim != 3 or v.shape != k.shape:
        raise ValueError(
            f"{op}: k[T,G,D] and v[T,G,D] are expected, not {tuple(k.shape)} and {tuple(v.shape)}."
        )
    T, G, D = k.shape
    if k_cache.ndim != 4 or k_cache.shape[2:] != (G, D) or v_cache.shape != k_cache.shape:
        raise ValueError(
            f"{op}: k_cache[N,P,{G},{D}] and v_cache[N,P,{G},{D}] are expected, "
            f"not {tuple(k_cache.shape)} and {tuple(v_cache.shape)}."
        )
    if slot.shape != (T,) or slot.dtype != torch.int64:
        raise ValueError(
            f"{op}: slot[{T}] in int64 is expected, not {tuple(slot.shape)} in {slot.dtype}."
        )
    if scale is None:
        require_dtype(op, k.dtype, k_cache=k_cache, v_cache=v_cache)
        return
    if {k_cache.dtype, v_cache.dtype} != {torch.float8_e4m3fn}:
        raise ValueError(
            f"{op}: with a scale the caches are float8_e4m3fn, "
            f"not {k_cache.dtype} and {v_cache.dtype}."
        )
    if scale.shape != (2,) or scale.dtype != torch.float32 or not scale.is_contiguous():
        raise ValueError(
            f"{op}: scale[2] in float32 is expected, not {tuple(scale.shape)} in {scale.dtype}."
        )


@torch.library.custom_op("chipscale::kv_cache_write", mutates_args=("k_cache", "v_cache"))
def kv_cache_write(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot: torch.Tensor,
    scale: torch.Tensor | None,
) -> None:
    """Writes k[T,G,D] and v[T,G,D] into the caches [N,P,G,D]; scale[2] where those are E4M3."""
    _check(k, v, k_cache, v_cache, slot, scale)
    T, G, D = k.shape
    num_pages, page_size, _, _ = k_cache.shape
    kind = "as it is" if scale is None else eight_bit.kind(k_cache.dtype, k.device)
    _write_kernel[(T, cdiv(G * D, _BLOCK))](
        k, v, as_bits(k_cache), as_bits(v_cache), slot, slot if scale is None else scale,
        num_pages * page_size, G * D, BLOCK=_BLOCK, KIND=kind, num_warps=_NUM_WARPS,
    )  # fmt: skip


@kv_cache_write.register_fake
def _(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot: torch.Tensor,
    scale: torch.Tensor | None,
) -> None:
    del k, v, k_cache, v_cache, slot, scale


def _eager(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot: torch.Tensor,
    scale: torch.Tensor | None,
) -> None:
    if scale is None:
        k_cache.flatten(0, 1).index_copy_(0, slot, k)
        v_cache.flatten(0, 1).index_copy_(0, slot, v)
        return
    # Bytes, since torch does not copy rows of E4M3 by index.
    for index, (rows, cache) in enumerate(((k, k_cache), (v, v_cache))):
        q = (rows / scale[index : index + 1]).clamp(-448.0, 448.0).to(cache.dtype)
        cache.view(torch.uint8).flatten(0, 1).index_copy_(0, slot, q.view(torch.uint8))


def reference(problem: Problem, inputs: Inputs) -> Outputs:
    """The new (k_cache, v_cache), what is written not rounded; the inputs stay."""
    outputs = []
    for index, name in enumerate("kv"):
        rows, cache = inputs[name], inputs[f"{name}_cache"].clone()
        if problem.dtype == "fp8":
            rows = (rows / inputs["scale"][index : index + 1]).clamp(-448.0, 448.0)
        cache.flatten(0, 1)[inputs["slot"]] = rows.to(cache.dtype)
        outputs.append(cache)
    return tuple(outputs)


def cost(problem: Problem) -> Cost:
    """As the head of this file counts."""
    T = problem["T"]
    num_values = 2 * T * problem["G"] * problem["D"]
    size = dtypes.size_bytes(problem.dtype)
    is_fp8 = problem.dtype == "fp8"
    # 8 bytes are a slot, or both scales.
    return Cost(
        flops=num_values if is_fp8 else 0,
        bytes_read=num_values * (2 if is_fp8 else size) + 8 * T + 8 * is_fp8,
        bytes_written=num_values * size,
    )


def make_inputs(problem: Problem, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """k, v and the caches, standard normal, and T of the N * P slots in random order.

    In `fp8` the scales lie around 1/64, so that values below 7 are not cut off.
    """
    T, N, P, G, D = (problem[axis] for axis in ("T", "N", "P", "G", "D"))
    if T > N * P:
        raise ValueError(f"kv_cache_write: {T} tokens do not fit {N} pages of {P}.")
    device = generator.device
    is_fp8 = problem.dtype == "fp8"
    cache_dtype = dtypes.torch_dtype(problem.dtype)

    def normal(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    def cache() -> torch.Tensor:
        if not is_fp8:
            return normal(N, P, G, D, dtype=cache_dtype)
        return normal(N, P, G, D, dtype=torch.bfloat16).mul_(64).to(cache_dtype)

    dtype = torch.bfloat16 if is_fp8 else cache_dtype
    inputs = {
        "k": normal(T, G, D, dtype=dtype),
        "v": normal(T, G, D, dtype=dtype),
        "k_cache": cache(),
        "v_cache": cache(),
        "slot": torch.randperm(N * P, generator=generator, device=device)[:T],
    }
    if is_fp8:
        inputs["scale"] = torch.rand(2, generator=generator, device=device).add_(1.5).div_(128)
    return inputs


def tolerance(problem: Problem) -> tuple[Tolerance, ...]:
    """Copies are exact; E4M3 is half a step off, 1/16 of a value.

    The largest of many standard normal values is below 7.
    """
    if problem.dtype != "fp8":
        exact = Tolerance(dtype=problem.dtype, relative_error=0.0, max_error=0.0, row_error=0.0)
        return exact, exact
    half = dtypes.epsilon("fp8") / 2
    rounded = Tolerance(dtype="fp8", relative_error=half, max_error=7 * half, row_error=1.01 * half)
    return rounded, rounded


_OPERANDS = ("k", "v", "k_cache", "v_cache", "slot")


def _operands(inputs: Inputs) -> tuple[torch.Tensor | None, ...]:
    return *(inputs[name] for name in _OPERANDS), inputs.get("scale")


def _prepare_torch(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = _operands(inputs)

    def run() -> Outputs:
        _eager(*operands)  # type: ignore[arg-type]
        return inputs["k_cache"], inputs["v_cache"]

    return run


def _prepare_compile(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = _operands(inputs)
    write = compiled(_eager)
    # Compiles on copies: preparing writes nothing.
    write(*(None if tensor is None else tensor.clone() for tensor in operands))  # type: ignore[arg-type]

    def run() -> Outputs:
        write(*operands)  # type: ignore[arg-type]
        return inputs["k_cache"], inputs["v_cache"]

    return run


def _prepare_triton(problem: Problem, inputs: Inputs) -> Run:
    del problem
    operands = _operands(inputs)

    def run() -> Outputs:
        kv_cache_write(*operands)
        return inputs["k_cache"], inputs["v_cache"]

    return run


def _aot(kind: str, pointer: str, scale: str, families: tuple[str, ...]) -> AotKernel:
    return AotKernel(
        label=f"kv_cache_write bf16 {kind}",
        kernel=_write_kernel,
        signature={
            "k_ptr": "*bf16:16",
            "v_ptr": "*bf16:16",
            "k_cache_ptr": pointer,
            "v_cache_ptr": pointer,
            "slot_ptr": "*i64:16",
            "scale_ptr": scale,
            "num_slots": "i32:16",
            "width": "i32:16",
            "BLOCK": "constexpr",
            "KIND": "constexpr",
        },
        constexprs={"BLOCK": _BLOCK, "KIND": kind},
        num_warps=_NUM_WARPS,
        num_stages=3,
        families=families,
    )


AOT = (
    _aot("as it is", "*bf16:16", "*i64:16", ("cuda", "cuda_99k", "hip")),
    *(
        _aot(kind, "*u8:16", "*fp32:16", eight_bit.KIND_FAMILIES[kind])
        for kind in ("e4m3", "e4m3_bits")
    ),
)

OP = Op(
    name="kv_cache_write",
    formula="k_cache[N,P,G,D], v_cache[N,P,G,D] at slot[T] = k[T,G,D], v[T,G,D]",
    source="Kwon et al. 2023, section 4.2, https://arxiv.org/abs/2309.06180",
    axes=("T", "N", "P", "G", "D"),
    dtypes=("bf16", "fp16", "fp32", "fp8"),
    modes=(Mode.FORWARD,),
    make_inputs=make_inputs,
    reference=reference,
    cost=cost,
    tolerance=tolerance,
    impls=(
        Impl("torch", _prepare_torch),
        Impl("compile", _prepare_compile, eight_bit.compile_unsupported),
        Impl("triton", _prepare_triton, triton_unsupported),
    ),
    mutates=("k_cache", "v_cache"),
    fixed=("scale",),
)
