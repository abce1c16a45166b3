"""A search finds the fastest configuration, and writes down only what is faster beyond doubt."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import Case
from harness.config.tuning import load_tables, read_table, to_yaml
from harness.device.base import DeviceState
from harness.errors import ConfigError
from harness.record import Measurement, Record, Status
from harness.tune import merged, outcomes, search_cases
from kernels import registry
from kernels.op import problem
from kernels.tuning import Choice, Config, Origin, TuningTable, config, table_of

PROBLEM = problem("gemm", "bf16", M=4096, N=4096, K=4096)
SIZES = (("M", 4096), ("N", 4096), ("K", 4096))
USUAL = config(4, 3, BLOCK_M=64)
FAST = config(8, 4, BLOCK_M=128)
SLOW = config(8, 2, BLOCK_M=256)


def record_of(
    launched: Config, median_s: float, *, is_forced: bool, status: Status = Status.OK
) -> Record:
    case = Case(problem=PROBLEM, impl="triton")
    if is_forced:
        case = replace(case, forced=(("gemm", launched),))
    if status is not Status.OK:
        return Record(run_id="run", case=case, status=status, reason="no")
    return Record(
        run_id="run",
        case=case,
        status=Status.OK,
        measurement=Measurement(
            samples_s=tuple(median_s * (1 + 1e-4 * index) for index in range(20)),
            timer="device_event",
            timer_resolution_s=1e-6,
            cache="cold",
            flush_bytes=0,
            num_warmup=3,
            warmup_s=0.1,
            prepare_s=0.1,
            stop_reason="",
            peak_memory_bytes=None,
            state_before=DeviceState(),
            state_after=DeviceState(),
        ),
        launches=(
            Choice(
                kernel="gemm",
                dtype="bfloat16",
                sizes=SIZES,
                config=launched,
                origin=Origin.FORCED if is_forced else Origin.HEURISTIC,
            ),
        ),
    )


def test_the_fastest_right_configuration_wins_and_says_against_what() -> None:
    (found,) = outcomes(
        [
            record_of(USUAL, 2e-3, is_forced=False),
            record_of(SLOW, 3e-3, is_forced=True),
            record_of(FAST, 1e-3, is_forced=True),
            record_of(config(1, 1, BLOCK_M=16), 0, is_forced=True, status=Status.INCORRECT),
        ]
    )
    assert [choice.config for choice in found.best] == [FAST]
    assert found.gain == pytest.approx(0.5)
    assert found.is_worth_writing
    assert (found.num_right, found.num_wrong) == (2, 1)
    (entry,) = found.entries("run")
    assert entry.sizes == SIZES
    assert "1.00 ms" in entry.evidence
    assert "before 2.00 ms" in entry.evidence
    assert "best of 2, run run" in entry.evidence


def test_what_is_not_faster_beyond_doubt_is_not_written_down() -> None:
    (found,) = outcomes(
        [record_of(USUAL, 1e-3, is_forced=False), record_of(FAST, 0.9995e-3, is_forced=True)]
    )
    assert not found.is_worth_writing


def test_a_search_without_the_usual_launch_finds_nothing() -> None:
    assert outcomes([record_of(FAST, 1e-3, is_forced=True)]) == ()
    broken = record_of(USUAL, 0, is_forced=False, status=Status.UNSUPPORTED)
    assert outcomes([broken, record_of(FAST, 1e-3, is_forced=True)]) == ()


def test_every_configuration_of_every_kernel_is_tried_once_beside_the_usual_launch() -> None:
    for name in registry.names():
        tunables = registry.tunables(name)
        case = problem(name, "bf16")
        cases = search_cases([case])
        assert len({one.id for one in cases}) == len(cases)
        if tunables:
            assert cases[0].forced == ()
            tried = [one.forced[0] for one in cases[1:]]
            for tunable in tunables:
                for configs in tunable.configs.values():
                    for wanted in configs:
                        assert (tunable.kernel, wanted) in tried
        else:
            assert cases == ()


def test_a_table_is_read_as_it_was_written_and_new_entries_replace_old_ones(tmp_path: Path) -> None:
    (found,) = outcomes(
        [record_of(USUAL, 2e-3, is_forced=False), record_of(FAST, 1e-3, is_forced=True)]
    )
    empty = TuningTable(chip="a_chip", devices=("A Chip",))
    table = merged(empty, found.entries("first"))
    file = tmp_path / "tuning" / "a_chip.yaml"
    file.parent.mkdir()
    file.write_text(to_yaml(table), encoding="utf-8")
    assert read_table(file) == table
    again = merged(read_table(file), found.entries("second"))
    assert [entry.evidence.rpartition(" ")[2] for entry in again.entries] == ["second"]
    assert table in load_tables([tmp_path])
    assert table_of(" a chip", [table]) == table
    assert table_of("another", [table]) == TuningTable()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chip: x\n", "`devices` and `entries` must be lists"),
        ("devices: []\nentries: [{kernel: gemm}]\n", r"entries\[0\]: .* is not a table of kernel"),
        (
            "devices: []\nentries: [{kernel: gemm, dtype: x, variant: a, sizes: {M: -1}, "
            "blocks: {}, "
            "num_warps: 4, num_stages: 1, evidence: e}]\n",
            r"entries\[0\].sizes.M: -1 is not a whole number",
        ),
    ],
)
def test_a_table_that_is_none_is_told_by_its_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_table(file)
