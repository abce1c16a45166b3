"""Tables of published runs as users bring them, and what is printed of them."""

import csv
import json
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.config.build import PUBLISHED_RUNS
from harness.validation.cells import COLUMNS
from harness.validation.clusters import chip_titled, cluster_of
from harness.validation.rows import PublishedRun, read_run

RUN = "llama3-t4-002"


def published(row_id: str = RUN) -> dict[str, str]:
    with PUBLISHED_RUNS.open(encoding="utf-8", newline="") as file:
        return next(row for row in csv.DictReader(file) if row["id"] == row_id)


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def validated(
    path: Path, capsys: pytest.CaptureFixture[str], expected_exit_code: int = 0
) -> dict[str, object]:
    assert main(["validate", f"data={path}", "format=json"]) == expected_exit_code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_table_of_ones_own_is_predicted_into_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = published() | {"id": "other-1", "chip": "Abacus"}
    found = validated(table(tmp_path / "runs.csv", published(), unknown), capsys)
    assert (found["rows"], found["used"]) == (2, 1)
    (dropped,) = found["dropped"]
    assert dropped["id"] == "other-1"
    assert "Abacus" in dropped["reason"]
    (one,) = found["predictions"]
    assert one["id"] == RUN
    assert one["P10"] < one["predicted"] < one["P90"]
    error = abs(one["predicted"] / one["published"] - 1)
    for key in ("median_abs_error", "mean_abs_error", "worst_abs_error"):
        assert found[key] == pytest.approx(error)
    assert found["by_source"]["llama3"]["used"] == 1


def test_a_prediction_is_in_the_metric_of_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_run(published())
    assert isinstance(run, PublishedRun)
    as_time = published() | {
        "id": "time-1",
        "metric_name": "step_time_s",
        "metric_value": str(run.step_time_s),
    }
    tokens = run.parallel.global_batch_tokens / run.num_chips / run.step_time_s
    as_rate = published() | {
        "id": "rate-1",
        "metric_name": "tokens_per_s_per_chip",
        "metric_value": str(tokens),
    }
    found = validated(table(tmp_path / "runs.csv", as_time, as_rate), capsys)
    time, rate = found["predictions"]
    assert time["published"] == pytest.approx(run.step_time_s)
    # The same step, once as a time and once as a rate.
    assert time["predicted"] * rate["predicted"] == pytest.approx(run.step_time_s * tokens)


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("metric_value", "fast", "a number cannot be read"),
        ("metric_value", "0", "is not above zero"),
        ("metric_value", "nan", "is not above zero"),
        ("layers", "many", "a number cannot be read"),
        ("heads", "", "heads not given"),
        ("tp", "0", "tp 0 is not a whole number above zero"),
        ("layers", "30.5", "layers 30.5 is not a whole number above zero"),
        ("tp", "7", "does not divide the 16384 chips"),
    ],
)
def test_a_bad_cell_costs_its_row_and_says_why(
    cell: str,
    value: str,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # No public model has this name, so that its sizes must be told.
    bad = published() | {"id": "bad-1", "model": "own-400b", cell: value}
    found = validated(table(tmp_path / "runs.csv", bad, published()), capsys)
    assert found["used"] == 1
    (dropped,) = found["dropped"]
    assert reason in dropped["reason"]


def test_a_row_that_is_there_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = validated(table(tmp_path / "runs.csv", published(), published()), capsys)
    assert (found["rows"], found["used"]) == (2, 1)


def test_a_table_with_nothing_to_predict_is_told_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "runs.csv", published() | {"chip": "Abacus"})
    found = validated(path, capsys, expected_exit_code=5)
    assert found["used"] == 0
    assert found["median_abs_error"] is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["data=nowhere.csv"], "nowhere.csv: no such file"),
        (["format=xml"], "format"),
        (["date=runs.csv"], "date"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error


def test_a_table_that_lacks_columns_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("id,chip\nx,y\n", encoding="utf-8")
    assert main(["validate", f"data={path}"]) == 2
    assert "no column source, chips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("precision", "linear_dtype"),
    [("fp8", "fp8"), ("MXFP8", "fp8"), ("FP8-CS (FP8-MX)", "fp8"), ("bf16", "")],
)
def test_a_rows_precision_says_how_layers_multiply(precision: str, linear_dtype: str) -> None:
    run = read_run(published() | {"precision": precision})
    assert isinstance(run, PublishedRun)
    assert run.parallel.dtype == "bf16"
    assert run.parallel.linear_dtype == linear_dtype


def test_a_known_models_heads_are_its_own_and_its_layers_the_rows() -> None:
    run = read_run(published() | {"model": "qwen3-30b-a3b (4 layers)", "layers": "4"})
    assert isinstance(run, PublishedRun)
    assert run.model.head_dim == 128
    assert run.model.num_layers == 4


def test_chips_that_no_axis_names_are_data_parallel() -> None:
    row = published() | {"chips": "6144", "tp": "8", "pp": "1", "cp": "", "dp": "16", "zero": "3"}
    run = read_run(row)
    assert isinstance(run, PublishedRun)
    assert run.parallel.data == 768


def test_a_chip_is_joined_as_its_data_sheet_says() -> None:
    chip = chip_titled("GB200")
    assert chip is not None
    rack, *outer = cluster_of(chip, 512).tiers
    assert rack.chips == chip.scaleup_domain_chips
    assert rack.bandwidth_bytes_per_s_per_chip == chip.scaleup_bandwidth_bytes_per_s_per_chip
    assert {tier.bandwidth_bytes_per_s_per_chip for tier in outer} == {
        chip.scaleout_bandwidth_bytes_per_s_per_chip
    }


def test_a_network_that_no_data_sheet_tells_is_not_guessed() -> None:
    chip = chip_titled("TPU-v5p")
    assert chip is not None
    assert cluster_of(chip, 8960) is not None
    assert cluster_of(chip, 17920) is None
