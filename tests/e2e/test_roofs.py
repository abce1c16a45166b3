"""Roofs on the fake chip, whose rates are known: found, kept, taken over, and held against."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.cli.main import main
from harness.run import RUNS
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN, ROOFS, RunFolder, run_folders

SEARCH = ("suite=roofs_cpu", "suite.types=[bf16]", "suite.types_8bit=[fp8]", "device=fake")
QUICK = (
    "suite=quick",
    "suite.phases=[]",
    "suite.roofs=[]",
    "suite.problems=[{op: gemm, axes: {M: 4096, N: 4096, K: 4096}}]",
    "device=fake",
    "projection=false",
)


def newest(results: Path) -> RunFolder:
    return run_folders(results / RUNS)[-1]


def test_a_search_finds_the_made_up_rates_and_everything_else_is_held_against_them(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *SEARCH, f"results_dir={results}"]) == 0
    shown = capsys.readouterr().out
    search = newest(results)
    roofs = {roof.what: roof for roof in search.roofs.roofs}
    # At the 80 % of its rates that the stand-in for triton is given, with 5 us for each launch:
    # 12 MiB of triad take 3.9 us more from a cache of 4 TB/s.
    for what, value, tolerance in (
        ("bf16", 80e12, 0.06),
        ("fp8", 80e12, 0.06),
        ("memory", 0.8e12, 0.03),
        ("memory copy", 0.8e12, 0.03),
        ("cache", 1.41e12, 0.02),
        ("launch", 5e-6, 0.01),
        ("host to device", 35e9, 0.01),
        ("device to host", 35e9, 0.01),
    ):
        roof = roofs[what]
        assert roof.value == pytest.approx(value, rel=tolerance), what
        assert roof.low <= roof.value <= roof.high
        assert what in shown
    assert roofs["bf16"].num_tried == 8
    assert roofs["cache"].value > 1.5 * roofs["memory"].value
    assert all(case.endswith("@hot") for case in roofs["cache"].case_ids)
    page = (search.path / REPORT_HTML).read_text(encoding="utf-8")
    assert '<section id="roofs"' in page
    assert "## Measured roofs" in (search.path / REPORT_MARKDOWN).read_text(encoding="utf-8")

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("chipscale/roofs_cpu")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    measured = run.data.metrics["roofs/bf16.tflops"]
    assert measured == pytest.approx(roofs["bf16"].value / 1e12, rel=1e-4)
    assert run.data.metrics["roofs/bf16.tflops_low"] <= measured
    assert ROOFS in {item.path for item in client.list_artifacts(run.info.run_id)}

    assert main(["run", *QUICK, f"results_dir={results}", "tracking.enabled=false"]) == 0
    shown = capsys.readouterr().out
    assert f"Roofs found by a search in {search.info.run_id}" in shown
    kept = json.loads((newest(results).path / ROOFS).read_text(encoding="utf-8"))
    assert {roof["run_id"] for roof in kept["roofs"]} == {search.info.run_id}


def test_a_result_above_a_searched_roof_is_rejected_and_its_record_kept(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of another seed, which is another chip: its roofs come out a third too low.
    seed = "device.fake.seed=5"
    slow = ("device.fake.throttle_after_s=0", "measure.throttle_retries=0")
    arguments = [f"results_dir={results}", seed, "tracking.enabled=false"]
    assert main(["run", *SEARCH, *slow, *arguments]) == 0
    capsys.readouterr()
    assert main(["run", *QUICK, *arguments]) == 4
    shown = capsys.readouterr().out
    assert "3 rejected" in shown
    assert "above the measured bf16 roof" in " ".join(shown.split())
    folder = newest(results)
    assert {record.status for record in folder.records()} == {"ok"}
    report = (folder.path / REPORT_MARKDOWN).read_text(encoding="utf-8")
    assert "nothing could be measured (3 rejected)" in report
    # Another search comes too late to change what was said of this run.
    before = (folder.path / ROOFS).read_text(encoding="utf-8")
    assert main(["run", *SEARCH, *arguments]) == 0
    assert main(["report", folder.info.run_id, "--results-dir", str(results)]) == 0
    assert (folder.path / ROOFS).read_text(encoding="utf-8") == before
