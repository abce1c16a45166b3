"""`chipscale serve` as a user starts it."""

import json
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from harness.cli.main import main
from harness.store.folder import REPORT_HTML, SERVING, RunFolder

FAST = ("model=llama3_8b", "cluster.num_chips=64", "tracking.enabled=false")


def newest(results: Path) -> RunFolder:
    return RunFolder(
        max((results / "projections").iterdir(), key=lambda path: path.stat().st_mtime)
    )


def test_serving_is_shown_kept_and_logged(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("serve", *FAST[:2], f"results_dir={results}", "serving.output_tokens=512")
    assert main([*asked, "tracking.required=true"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "llama3_8b on 64 x h100_sxm",
        "Pareto front",
        "energy per output token",
        "MLflow",
    ):
        assert words in shown
    folder = newest(results)
    projection = folder.serving
    assert projection is not None
    assert projection.output_tokens == 512
    assert json.loads((folder.path / SERVING).read_text("utf-8"))["best"]["pools"]
    page = (folder.path / REPORT_HTML).read_text("utf-8")
    assert "plot-pareto" in page
    assert "<script src=" not in page
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("chipscale/serving")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["tokens_per_s"] == pytest.approx(
        projection.best.tokens_per_s.value, rel=1e-3
    )
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {SERVING, REPORT_HTML}


def test_a_measured_run_serves_with_its_own_times(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("suite=inference", "model=llama3_8b", "suite.tensor=1", "suite.ops=[gemm,rms_norm]")
    measured = ("run", "device=fake", f"results_dir={results}", "tracking.enabled=false", *quick)
    assert main([*measured, "projection=false"]) == 0
    asked = ("serve", "model=llama3_8b", "cluster=this_100k", "runs=[latest]")
    assert main([*asked, f"results_dir={results}", "tracking.enabled=false"]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "on 100,000 x chipscale_fake_chip" in shown
    projection = newest(results).serving
    assert projection is not None
    sources = {str(source) for source, _ in projection.source_share}
    assert sources & {"measured", "interpolated", "extrapolated"}
    assert len(projection.run_ids) == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("serving.ttft_ms=1", "serving.ttft_ms: 1 is less than the"),
        ("serving.tpot_ms=-5", "serving.tpot_ms: -5 is not a finite number greater than 0."),
        ("serving.tpot_ms=nan", "serving.tpot_ms: nan is not a finite number greater than 0."),
        ("serving.tpot_ms=fast", "serving.tpot_ms: 'fast' is not a finite number greater than 0"),
        ("serving.input_tokens=0", "serving.input_tokens: 0 is not a whole number of at least 1"),
        ("serving.modes=[both]", "serving.modes: 'both' is not one of aggregated"),
        ("serving.weight_dtype=fp4", "serving.weight_dtype: 'fp4' is not one of"),
        ("serving.cached_input_share=1.5", "serving.cached_input_share: 1.5 is not a number from"),
        ("serving.speculation.num_tokens=-1", "serving.speculation.num_tokens: -1 is not"),
        ("serving.input=3", "Did you mean 'serving.input_tokens'?"),
        ("serving=chatt", "Did you mean 'chat'?"),
        ("cluster.num_chips=1", "no replica of llama3_405b in fp8 within the 1 chips"),
    ],
)
def test_a_mistake_is_one_line_with_what_works(
    override: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = "llama3_405b" if "num_chips" in override else "llama3_8b"
    asked = ("serve", f"model={model}", "tracking.enabled=false", f"results_dir={tmp_path}")
    assert main([*asked, override]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("chipscale: ")
    assert words in told


def test_the_composed_configuration_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "serving=interactive", "--cfg", "job"]) == 0
    assert "ttft_ms: 450" in capsys.readouterr().out


def test_requests_are_listed_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "servings"]) == 0
    shown = capsys.readouterr().out
    for name in ("chat", "interactive", "long_prompt", "reasoning"):
        assert name in shown
