import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.specs import load_chip
from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.constants import PRIOR, Constants
from harness.extrapolate.lookup import Lookup
from harness.extrapolate.priors import FIXED_S_PER_KERNEL
from harness.projection import Source
from harness.record import Status
from harness.roofline import Roofline
from kernels import registry
from kernels.op import Mode, Problem, problem
from tests.harness.extrapolate.measured import record, records

H100 = load_chip("h100_sxm")
UNKNOWN = ChipSpec(
    name="unknown",
    title="Unknown",
    vendor="none",
    torch_device_type="cpu",
    match=(),
    peak_flops_per_s=(),
    achievable_flops_per_s=(),
    memory_bytes=None,
    memory_bandwidth_bytes_per_s=None,
    l2_bytes=None,
    scaleup_bandwidth_bytes_per_s_per_chip=None,
    scaleup_domain_chips=None,
    scaleout_bandwidth_bytes_per_s_per_chip=None,
    power_w=None,
    source="",
    evidence="",
    notes="",
)


def gemm(M: int, N: int, K: int) -> Problem:
    return problem("gemm", "bf16", M=M, N=N, K=K)


def rough_time(one: Problem) -> float:
    """Slower than the roof by a share that falls with size, as real kernels are."""
    cost = registry.cost(one)
    return 5e-6 + max(cost.flops / 600e12, cost.num_bytes / 2.5e12) * 1.1


GRID = [gemm(m, n, k) for m in (256, 1024, 4096) for n in (1024, 4096) for k in (1024, 8192)]
ROOFS = [
    record(gemm(8192, 8192, 8192), 2 * 8192**3 / 700e12, roles=("roof",)),
    record(problem("copy", "bf16", N=2**28), 2**30 / 3.0e12, roles=("roof",)),
]


def test_a_measured_problem_has_its_median_and_interval() -> None:
    lookup = Lookup(H100, registry.cost, [record(gemm(512, 512, 512), 1e-3)])
    time = lookup.time(gemm(512, 512, 512))
    assert time.source is Source.MEASURED
    assert time.seconds == pytest.approx(1e-3)
    assert time.low <= time.seconds <= time.high


def test_a_time_with_a_hot_cache_is_no_time_of_a_step() -> None:
    cold = record(gemm(64, 64, 64), 2e-3)
    hot = record(gemm(64, 64, 64), 1e-3, impl="triton")
    hot = replace(hot, case=replace(hot.case, cache="hot"))
    time = Lookup(UNKNOWN, registry.cost, [*ROOFS, cold, hot]).time(gemm(64, 64, 64))
    assert time.seconds == pytest.approx(2e-3)


def test_roofs_that_are_known_already_stand_for_those_of_the_records() -> None:
    roofs = Roofline(flops_per_s=(("bf16", 1e12),), bytes_per_s=1e9)
    assert Lookup(UNKNOWN, registry.cost, ROOFS, roofs).roof is roofs


def test_the_fastest_right_implementation_counts() -> None:
    one = gemm(512, 512, 512)
    found = [
        record(one, 2e-3, "torch"),
        record(one, 1e-3, "triton"),
        record(one, 1e-4, "compile", status=Status.INCORRECT),
    ]
    assert Lookup(H100, registry.cost, found).time(one).seconds == pytest.approx(1e-3)


def test_another_size_of_a_measured_op_is_interpolated() -> None:
    lookup = Lookup(H100, registry.cost, [*ROOFS, *records(GRID, rough_time)])
    one = gemm(2048, 2048, 4096)
    time = lookup.time(one)
    assert time.source is Source.INTERPOLATED
    assert time.seconds == pytest.approx(rough_time(one), rel=0.1)
    assert time.low < time.seconds < time.high


def test_sizes_outside_the_measured_ones_are_less_sure() -> None:
    lookup = Lookup(H100, registry.cost, [*ROOFS, *records(GRID, rough_time)])
    inside = lookup.time(gemm(2048, 2048, 4096))
    outside = lookup.time(gemm(2048, 2048, 16 * 8192))
    assert outside.source is Source.EXTRAPOLATED
    assert outside.high / outside.seconds > 1.1 * inside.high / inside.seconds


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(*[st.integers(64, 16384)] * 3),
    st.tuples(*[st.integers(0, 8192)] * 3),
)
def test_a_larger_problem_is_never_predicted_to_be_faster(
    sizes: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    lookup = Lookup(H100, registry.cost, [*ROOFS, *records(GRID, rough_time)])
    larger = gemm(*(a + b for a, b in zip(sizes, more, strict=True)))
    assert lookup.time(gemm(*sizes)).seconds <= lookup.time(larger).seconds * (1 + 1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(64, 65536), st.integers(64, 65536), st.integers(64, 65536))
def test_nothing_interpolated_beats_the_measured_roof(M: int, N: int, K: int) -> None:
    lookup = Lookup(H100, registry.cost, [*ROOFS, *records(GRID, lambda one: rough_time(one) / 3)])
    one = gemm(M, N, K)
    time = lookup.time(one)
    if time.source is Source.INTERPOLATED:
        roof_s = lookup.roof.attainable_time_s(registry.cost(one), "bf16")
        assert roof_s is not None
        assert time.seconds >= roof_s * (1 - 1e-12)


def test_one_measured_size_gives_its_share_of_the_roof_to_others() -> None:
    found = [*ROOFS, record(gemm(4096, 4096, 4096), 2 * 4096**3 / 350e12)]
    # The roof is of the op too, so the median of both shares holds: 1 and 1/2 of it.
    time = Lookup(H100, registry.cost, found).time(gemm(2048, 8192, 4096))
    assert time.source is Source.EXTRAPOLATED
    assert time.seconds == pytest.approx(1.5 * 2 * 4096**3 / 700e12)


def test_an_op_that_was_not_measured_runs_below_the_measured_roof() -> None:
    one = problem("gemm", "bf16", Mode.WGRAD, M=4096, N=4096, K=4096)
    time = Lookup(H100, registry.cost, ROOFS).time(one)
    assert time.source is Source.ROOFLINE
    assert time.seconds > 2 * 4096**3 / 700e12


def test_without_measurements_published_rates_are_used() -> None:
    time = Lookup(H100, registry.cost).time(gemm(8192, 8192, 8192))
    flops = 2 * 8192 * (8192**2 + PRIOR.half_wave_outputs)
    rate = 794.5e12 * PRIOR.matrix_share
    assert time.source is Source.ROOFLINE
    assert time.seconds == pytest.approx(flops / rate + FIXED_S_PER_KERNEL.value)


def test_a_product_loses_half_a_wave_of_outputs_however_many_it_has() -> None:
    lookup = Lookup(H100, registry.cost, constants=Constants(half_wave_outputs=4e6))
    small, large = lookup.time(gemm(2048, 2048, 8192)), lookup.time(gemm(8192, 8192, 8192))
    lost = [
        time.seconds - FIXED_S_PER_KERNEL.value - flops / (794.5e12 * PRIOR.matrix_share)
        for time, flops in ((small, 2 * 2048**2 * 8192), (large, 2 * 8192**3))
    ]
    assert lost[0] == pytest.approx(lost[1])


def test_a_surface_learns_what_the_last_wave_of_a_product_costs() -> None:
    def seconds(m: int, n: int, k: int) -> float:
        return 2 * k * (m * n + 2.1e6) / 700e12

    sizes = [(1024, 1024, 4096), (2048, 2048, 8192), (4096, 4096, 2048), (8192, 8192, 8192)]
    found = [*ROOFS, *(record(gemm(*size), seconds(*size)) for size in sizes)]
    time = Lookup(H100, registry.cost, found).time(gemm(2048, 4096, 4096))
    assert time.seconds == pytest.approx(seconds(2048, 4096, 4096), rel=0.01)


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("memory_share", problem("rms_norm", "bf16", Mode.FORWARD, T=8192, H=8192)),
        ("permute_share", problem("moe_permute", "bf16", Mode.FORWARD, T=8192, K=8, E=64, H=4096)),
        ("matrix_share", gemm(8192, 8192, 8192)),
    ],
)
def test_each_share_scales_the_time_of_its_ops(name: str, one: Problem) -> None:
    full, half = (
        Lookup(H100, registry.cost, constants=Constants(**{name: share})).time(one).seconds
        for share in (1.0, 0.5)
    )
    fixed = FIXED_S_PER_KERNEL.value
    assert half - fixed == pytest.approx(2 * (full - fixed))


def test_an_unknown_rate_is_an_error_that_says_what_to_do() -> None:
    message = "memory_bandwidth_gb_per_s: that of unknown is n/a, so gemm.bf16.forward[M=1,N=1,K=1]"
    with pytest.raises(ConfigError, match=re.escape(message)):
        Lookup(UNKNOWN, registry.cost).time(gemm(1, 1, 1))


def test_a_chip_without_data_sheet_lives_on_its_measured_roofs() -> None:
    time = Lookup(UNKNOWN, registry.cost, ROOFS).time(
        problem(
            "attention",
            "bf16",
            Mode.FORWARD,
            "causal",
            B=1,
            Q=4096,
            S=4096,
            H=32,
            G=8,
            D=128,
            E=128,
        )
    )
    assert time.source is Source.ROOFLINE


def test_a_type_that_was_not_measured_is_an_error_that_lists_those_that_were() -> None:
    with pytest.raises(
        ConfigError, match=r"peak_tflops\.fp32: that of unknown is n/a.*one of bf16"
    ):
        Lookup(UNKNOWN, registry.cost, ROOFS).time(problem("gemm", "fp32", M=512, N=512, K=512))
