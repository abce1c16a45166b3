import dataclasses

from rich.console import Console, RenderableType

from harness.codec import from_data, from_json, to_data, to_json
from harness.device.base import DeviceState
from harness.projection import Projection
from harness.record import Record, Window
from harness.report.rows import environment_warnings
from harness.report.table import projection_view, results_view, roofs_view
from harness.results import Roofs, result_rows
from harness.roofline import data_sheet_roofline
from harness.roofs import measured_roofs
from tests.harness.sample_run import CHIP, sample_projection, sample_records, sample_search


def text_of(view: RenderableType, width: int = 160) -> str:
    console = Console(width=width, record=True, file=None, no_color=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(view)
    return capture.get()


def sample_view(width: int = 160) -> str:
    records = sample_records()
    roofs = measured_roofs(records)
    return text_of(results_view(result_rows(records, roofs), roofs), width)


def test_the_table_shows_time_interval_rate_share_and_status_of_a_case() -> None:
    lines = sample_view().splitlines()
    head = next(i for i, line in enumerate(lines) if "M=8192 N=8192 K=8192" in line)
    assert lines[head].startswith("gemm forward  bf16")
    for word in ("torch", "ms +/- ", "TFLOP/s", " %", "ok"):
        assert word in lines[head + 1]


def test_sizes_are_written_once_per_problem() -> None:
    assert sample_view().count("M=8192 N=8192 K=8192") == 1


def test_cases_without_a_time_are_listed_with_their_reasons() -> None:
    view = sample_view()
    assert "1 unsupported" in view
    assert "Triton has no back-end for the virtual device." in view
    assert "gemm.bf16.forward" not in view.partition("No time, because:")[2]


def test_roofs_and_counts_close_the_table() -> None:
    view = sample_view()
    assert "Measured roofs: bf16 37" in view
    assert "Cases: 48 ok, 1 unsupported, 1 incorrect" in view


def test_the_table_fits_a_narrow_terminal() -> None:
    lines = sample_view(80).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any("3.25 ms +/- " in line and line.rstrip().endswith("ok") for line in lines)


def test_a_case_above_its_roof_is_marked_and_explained() -> None:
    roofs = Roofs(flops_per_s=(("bf16", 1e12),), bytes_per_s=1e9)
    view = text_of(results_view(result_rows(sample_records(), roofs), roofs))
    assert " % !" in view
    assert "Faster than the roof" in view


def test_the_table_of_roofs_tells_rate_interval_and_share_and_fits_a_terminal() -> None:
    roofs = measured_roofs(sample_records(), data_sheet_roofline(CHIP))
    lines = text_of(roofs_view(roofs)).splitlines()
    assert lines[1].split() == ["roof", "rate", "interval", "of", "sheet", "tried", "best", "alone"]
    assert lines[2].startswith("bf16                37")
    assert " TFLOP/s     +/- 1.4 %" in lines[2]
    assert "    74.9 %      1" in lines[2]
    assert lines[3].strip() == "gemm M=8192 N=8192 K=8192 triton"
    assert [line.split("  ")[0] for line in lines[2::2]] == ["bf16", "memory", "memory copy"]
    assert max(map(len, lines)) <= 80


def test_roofs_of_another_run_say_so() -> None:
    records = sample_records()
    roofs = measured_roofs(records)
    rows = result_rows(records, roofs)
    run_id = records[0].run_id
    assert "Roofs found" not in text_of(results_view(rows, roofs, run_id))
    assert f"Roofs found by a search in {run_id}." in text_of(results_view(rows, roofs, "another"))


def test_a_run_without_roofs_shows_not_available() -> None:
    view = text_of(results_view(result_rows(sample_records(), Roofs()), Roofs()))
    assert "n/a" in view
    assert "Measured roofs: none" in view


def test_the_projection_names_chips_plan_time_tokens_memory_and_trust() -> None:
    view = text_of(projection_view(sample_projection()), 120)
    for words in (
        "llama3_405b on 100,000 x imaginary_x1",
        "TP8 PP16 DP781",
        "12.0 s (11.1 s to 13.4 s)",
        "tokens/s",
        "25.6 %",
        "n/a",
        "71.5 GiB per chip of 96.0 GiB",
        "62.0 % measured",
        "pipeline bubble",
        "Taken on trust:",
    ):
        assert words in view


def test_the_projection_says_what_else_there_was_and_what_holds_it_back() -> None:
    projection = dataclasses.replace(sample_projection(), search=sample_search())
    view = text_of(projection_view(projection), 160)
    for words in (
        "102,888, of which 43,574 fit the memory (57.6 % do not); 1 other kind of plan within 1 %",
        "pipeline bubble, 9.00 % of the step",
        "the batch: twice as large it would give 4.30 % more tokens/s",
        "Next best of another kind:",
        "TP8 PP8 DP781 CP2 ZeRO-1 10x microbatch 1  3.58 s  0.4 % fewer tokens/s, a tie",
    ):
        assert words in view
    assert from_json(Projection, to_json(projection)) == projection


def test_a_projection_kept_before_searches_were_told_is_shown() -> None:
    data = to_data(sample_projection())
    del data["search"]
    kept = from_data(Projection, data)
    assert kept.search is None
    assert "Next best" not in text_of(projection_view(kept))


def test_long_lists_of_assumptions_are_cut_and_counted() -> None:
    projection = dataclasses.replace(
        sample_projection(), assumptions=tuple(f"Assumption {number}." for number in range(9))
    )
    assert "and 5 more in the report" in text_of(projection_view(projection))


def held_by(record: Record, program: str) -> Record:
    """The record, with another program on the device in one of its windows."""
    assert record.measurement is not None
    state = DeviceState(foreign_processes=(program,))
    window = Window(num_samples=1, seconds=1.0, state=state)
    return dataclasses.replace(
        record, measurement=dataclasses.replace(record.measurement, windows=(window,))
    )


def test_programs_that_held_the_device_are_told_with_how_many_cases_they_touched() -> None:
    first, second, *others = sample_records()
    records = [held_by(first, "trainer (4711)"), held_by(second, "serve (12)"), *others]
    rows = result_rows(records)
    assert (
        f"Not alone: trainer (4711), serve (12) held the device while 2 of {len(rows)} cases were "
        "measured."
    ) in text_of(results_view(rows, measured_roofs(records)), 400)
    assert any("trainer (4711)" in text for text in environment_warnings(None, rows))


def test_a_run_that_was_alone_says_nothing_of_it() -> None:
    assert "Not alone" not in sample_view()
