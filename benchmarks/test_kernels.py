"""Every op of this project at one small size of a real model, in each implementation.

    pytest benchmarks                              all that can run here
    pytest benchmarks -k "gemm and not triton"     some
    pytest benchmarks --benchmark-json=base.json   kept ...
    pytest benchmarks --chip-baseline=base.json    ... and held against

Sizes are of Llama-3.1 8B and DeepSeek-V3 on one chip of eight, with few tokens, so that a processor
gets through all of them; `chipscale run suite=kernels` has the large ones.
"""

import pytest

from harness.pytest_plugin.chip_benchmark import ChipBenchmark
from kernels.op import Mode, Problem, problem

IMPLS = ("torch", "compile", "triton")
BACKWARD, DGRAD, WGRAD = Mode.BACKWARD, Mode.DGRAD, Mode.WGRAD
FORWARD = Mode.FORWARD
TOKENS = 128

MATRIX_PRODUCTS = (
    *(problem("gemm", "bf16", mode, M=TOKENS, N=768, K=4096) for mode in (FORWARD, DGRAD, WGRAD)),
    problem("scaled_gemm", "int8", FORWARD, "row", M=TOKENS, N=768, K=4096),
    problem("scaled_gemm", "fp8", FORWARD, "row", M=TOKENS, N=768, K=4096),
    problem("int4_gemm", "bf16", M=1, N=768, K=4096),
    problem("grouped_gemm", "bf16", FORWARD, "zipf", R=256, E=8, N=512, K=1024),
    problem("linear_cross_entropy", "bf16", T=64, H=1024, V=16032),
)
ATTENTION = (
    *(
        problem("attention", "bf16", mode, "causal", B=1, Q=512, S=512, H=4, G=1, D=128, E=128)
        for mode in (FORWARD, BACKWARD)
    ),
    problem("window_attention", "bf16", B=1, Q=512, S=512, H=8, G=1, D=64, E=64, W=128),
    problem("varlen_attention", "bf16", FORWARD, "skewed", T=512, B=4, H=4, G=1, D=128, E=128),
    problem("paged_prefill", "bf16", B=1, Q=128, S=512, H=4, G=1, D=128, P=64),
    problem("paged_decode", "bf16", B=8, S=512, H=4, G=1, D=128, P=64),
    problem("mla_prefill", "bf16", B=1, Q=128, S=128, H=16, N=128, R=64, V=128),
    problem("mla_decode", "bf16", B=4, S=512, H=16, C=512, R=64, P=64),
    problem("kv_cache_write", "bf16", T=TOKENS, N=8, P=64, G=1, D=128),
    problem("rope", "bf16", T=TOKENS, H=5, D=128),
)
MEMORY_BOUND = (
    *(problem("rms_norm", "bf16", mode, T=TOKENS, H=4096) for mode in (FORWARD, BACKWARD)),
    problem("layer_norm", "bf16", T=TOKENS, H=4096),
    problem("add_rms_norm", "bf16", T=TOKENS, H=4096),
    problem("add_layer_norm", "bf16", T=TOKENS, H=4096),
    *(problem("swiglu", "bf16", mode, T=TOKENS, F=1792) for mode in (FORWARD, BACKWARD)),
    problem("geglu", "bf16", T=TOKENS, F=1792),
    problem("gelu", "bf16", N=TOKENS * 1792),
    problem("softmax", "bf16", T=TOKENS, V=4096),
    problem("cross_entropy", "bf16", T=TOKENS, V=16032),
    problem("embedding", "bf16", T=TOKENS, V=16032, H=4096),
    problem("quantize", "int8", FORWARD, "token", T=TOKENS, H=4096),
    problem("dequantize", "int8", FORWARD, "token", T=TOKENS, H=4096),
    problem("adamw", "fp32", N=2**20),
    problem("grad_norm", "bf16", N=2**20),
    problem("sampling", "bf16", FORWARD, "top_k_top_p", T=8, V=128256),
)
EXPERTS = (
    problem("moe_route", "fp32", FORWARD, "softmax", T=TOKENS, E=128, K=8),
    problem("moe_permute", "bf16", T=TOKENS, K=8, E=128, H=1024),
    problem("moe_unpermute", "bf16", T=TOKENS, K=8, E=128, H=1024),
)
MEMORY_ITSELF = (
    *(problem(op, "fp32", N=2**22) for op in ("copy", "scale", "add", "triad", "read", "write")),
    problem("host_to_device", "fp32", N=2**22),
    problem("device_to_host", "fp32", N=2**22),
    problem("empty", "fp32", N=1024),
)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "one",
    [*MATRIX_PRODUCTS, *ATTENTION, *MEMORY_BOUND, *EXPERTS, *MEMORY_ITSELF],
    ids=lambda one: one.group,
)
def test_kernel(chip_benchmark: ChipBenchmark, one: Problem, impl: str) -> None:
    chip_benchmark(one, impl=impl)
