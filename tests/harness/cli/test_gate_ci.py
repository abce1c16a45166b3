"""What a team's CI relies on: the number of the pull request, and what docs/ci.md says."""

import dataclasses
import re
from pathlib import Path

import pytest

from harness.cli.gate_ci import pull_request
from harness.gate_result import (
    Arm,
    CommonShift,
    Exemption,
    GateCase,
    GateResult,
    Stage,
    State,
)
from harness.report import gate_annotations, gate_junit

PAGE = Path(__file__).parents[3] / "docs" / "ci.md"


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({"GITHUB_REF": "refs/pull/17/merge"}, "17"),
        ({"GITHUB_REF": "refs/heads/main"}, ""),
        ({"CI_MERGE_REQUEST_IID": "4"}, "4"),
        ({"CHANGE_ID": "5"}, "5"),
        ({"BUILDKITE_PULL_REQUEST": "false"}, ""),
        ({}, ""),
    ],
)
def test_the_pull_request_is_read_from_the_variables_of_ci(
    environment: dict[str, str], number: str
) -> None:
    assert pull_request(environment) == number


@pytest.mark.parametrize("kind", [GateResult, GateCase, Arm, Stage, CommonShift, Exemption])
def test_the_page_describes_every_key_of_gate_json(kind: type) -> None:
    described = set(
        re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8").split("## gate.json")[1])
    )
    assert {field.name for field in dataclasses.fields(kind)} <= described


def test_the_page_says_of_each_state_what_ci_is_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[1].strip(): (cells[4].strip(), cells[5].strip())
        for cells in (line.split("|") for line in text.splitlines())
        if len(cells) == 7 and cells[1].strip() in list(State)
    }
    assert rows == {
        state.value: (
            gate_junit.ELEMENT.get(state, "passed"),
            gate_annotations.LEVEL.get(state, ""),
        )
        for state in State
    }
