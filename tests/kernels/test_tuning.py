import pytest
import torch

from kernels import tuning
from kernels.tuning import Origin, TuningEntry, TuningTable, choose, config

HEURISTIC = config(4, 3, BLOCK_M=64, BLOCK_N=64)
TUNED = config(8, 4, BLOCK_M=128, BLOCK_N=256)
TABLE = TuningTable(
    chip="a chip",
    entries=(
        TuningEntry(
            kernel="gemm", dtype="bfloat16", sizes=(("M", 4096), ("N", 8192)), config=TUNED
        ),
    ),
)


@pytest.fixture(autouse=True)
def no_table_afterwards() -> object:
    yield
    tuning.use(TuningTable())


def _origin(M: int, N: int, dtype: torch.dtype = torch.bfloat16) -> Origin:
    with tuning.observed() as choices:
        choose("gemm", dtype, HEURISTIC, M=M, N=N)
    (choice,) = choices
    return choice.origin


def test_a_configuration_is_told_once_with_its_families() -> None:
    tunable = tuning.Tunable(
        kernel="gemm", configs={"cuda": (TUNED, HEURISTIC), "hip": (HEURISTIC,)}
    )
    assert list(tunable.families.items()) == [(TUNED, ("cuda",)), (HEURISTIC, ("cuda", "hip"))]
    assert tunable.first == {TUNED, HEURISTIC}


def test_without_a_table_the_heuristic_is_taken() -> None:
    assert choose("gemm", torch.bfloat16, HEURISTIC, M=4096, N=8192) == HEURISTIC


def test_tuned_sizes_and_those_near_them_take_the_tuned_configuration() -> None:
    tuning.use(TABLE)
    assert choose("gemm", torch.bfloat16, HEURISTIC, M=4096, N=8192) == TUNED
    assert _origin(8192, 4096) == Origin.TUNED
    assert _origin(8193, 8192) == Origin.HEURISTIC
    assert _origin(4096, 8192, torch.float16) == Origin.HEURISTIC


def test_the_nearest_of_several_sizes_is_taken() -> None:
    far = config(4, 4, BLOCK_M=32, BLOCK_N=32)
    entry = TuningEntry(
        kernel="gemm", dtype="bfloat16", sizes=(("M", 2100), ("N", 8192)), config=far
    )
    tuning.use(TuningTable(chip="a chip", entries=(entry, *TABLE.entries)))
    assert choose("gemm", torch.bfloat16, HEURISTIC, M=4000, N=8192) == TUNED
    assert choose("gemm", torch.bfloat16, HEURISTIC, M=2000, N=8192) == far


def test_a_forced_configuration_wins_and_is_forgotten_afterwards() -> None:
    tuning.use(TABLE)
    tried = config(2, 2, BLOCK_M=16, BLOCK_N=16)
    with tuning.forced({"gemm": tried}):
        assert choose("gemm", torch.bfloat16, HEURISTIC, M=4096, N=8192) == tried
        assert _origin(4096, 8192) == Origin.FORCED
    assert choose("gemm", torch.bfloat16, HEURISTIC, M=4096, N=8192) == TUNED


def test_a_choice_says_what_it_is() -> None:
    with tuning.observed() as choices:
        choose("gemm", torch.bfloat16, HEURISTIC, M=1, N=1)
    (choice,) = choices.of("gemm")
    assert str(choice) == ("gemm BLOCK_M=64 BLOCK_N=64 num_warps=4 num_stages=3 (heuristic)")


def test_every_size_of_a_kernel_is_observed_once() -> None:
    with tuning.observed() as choices:
        for M in (1, 2, 1):
            choose("gemm", torch.bfloat16, HEURISTIC, M=M, N=1)
    assert [choice.sizes for choice in choices.of("gemm")] == [
        (("M", 1), ("N", 1)),
        (("M", 2), ("N", 1)),
    ]


def test_another_variant_takes_nothing_from_an_entry() -> None:
    tuning.use(TABLE)
    sizes = {"M": 4096, "N": 8192}
    assert choose("gemm", torch.bfloat16, HEURISTIC, "wgrad", **sizes) == HEURISTIC
    assert choose("gemm", torch.bfloat16, HEURISTIC, **sizes) == TUNED
