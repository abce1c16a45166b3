"""Layers against their ops in a whole run, on the fake chip, where nothing is fused."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.cli.main import main
from harness.closure import Closures, Part
from harness.codec import from_json
from harness.run import RUNS
from harness.store.folder import CLOSURE, REPORT_HTML, REPORT_MARKDOWN, run_folders

ONE_LAYER = (
    "suite=closure",
    "suite.closure=[{phase: training, sequence_length: 256}, {phase: prefill, "
    "sequence_length: 256}]",
    "device=fake",
)


def test_a_run_tells_how_far_the_sum_of_the_ops_is_off_wherever_results_are_shown(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["run", *ONE_LAYER, "impls=[torch]", f"results_dir={results}"]) == 0
    shown = capsys.readouterr().out
    first, second = run_folders(results / RUNS)
    kept = from_json(Closures, (first.path / CLOSURE).read_text(encoding="utf-8"))
    assert {one.part for one in kept.closures} == {Part.TRAINING, Part.FORWARD, Part.BACKWARD}
    assert all(one.missing == () for one in kept.closures)
    # The fake chip has no fusion and each op a launch of its own: sums are longer, never shorter.
    errors = [one.error.low for one in kept.closures if one.error is not None]
    assert min(errors) > 0
    page = (first.path / REPORT_HTML).read_text(encoding="utf-8")
    assert '<section id="closure"' in page
    for text in (shown, page, (first.path / REPORT_MARKDOWN).read_text(encoding="utf-8")):
        assert "Layers against their ops" in text
        assert "backward and update" in text

    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("chipscale/closure")
    assert experiment is not None
    (_, run) = client.search_runs([experiment.experiment_id])
    names = [name for name in run.data.metrics if name.startswith("closure/closure_error_dense")]
    assert len(names) == len(kept.closures)
    assert CLOSURE in {one.path for one in client.list_artifacts(run.info.run_id)}

    assert main(["compare", str(first.path), str(second.path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("Sum of the ops against dense_layer") == 3
