"""What the configuration that is kept with a run says of its work."""

from pathlib import Path

import pytest

from harness.config.run_work import RunWork, run_work
from tests.harness.compare.chips import suite_of


def kept(folder: Path, text: str) -> RunWork:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return run_work(folder)


def test_the_steps_the_model_and_the_cluster_are_read(tmp_path: Path) -> None:
    found = kept(tmp_path, suite_of("suite=quick").config_yaml)
    assert [step.phase for step in found.steps] == ["training"]
    assert found.model is not None
    assert found.cluster is not None
    assert found.parallel is not None
    assert (found.model.name, found.cluster.name) == ("llama3_8b", "this_100k")


@pytest.mark.parametrize("text", ["", "suite: [", "- a", "model: {name: x}", "suite: {phases: 3}"])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    assert kept(tmp_path, text) == RunWork()


def test_a_run_without_a_configuration_says_nothing(tmp_path: Path) -> None:
    assert run_work(tmp_path) == RunWork()


def test_a_phase_that_does_not_fit_the_model_is_left_out(tmp_path: Path) -> None:
    text = suite_of("suite=quick").config_yaml.replace("tensor: 8", "tensor: 7")
    found = kept(tmp_path, text)
    assert found.steps == ()
    assert found.model is not None
