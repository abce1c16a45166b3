"""What `chipscale gate` says of input that cannot be meant; nothing is measured for it."""

from pathlib import Path

import pytest

from harness.cli.gate import exit_code
from harness.cli.main import main
from harness.gate_result import State
from tests.harness.report.gate_sample import case, result
from tests.harness.sample_run import RUN_ID, write_run

BAD = {
    "no base": ([], "base: nothing is named"),
    "unknown revision": (["base=no-such-branch"], "no-such-branch"),
    "no wheel": (["base=missing.whl"], "no such wheel"),
    "rounds": (["base=tree", "gate.rounds=0"], "gate.rounds: 0"),
    "tolerance": (["base=tree", "gate.tolerance=-1"], "gate.tolerance"),
    "share": (["base=tree", "gate.common_share=2"], "gate.common_share"),
    "key": (["base=tree", "gate.toleranc=1"], "Did you mean 'gate.tolerance'?"),
    "suite": (["base=tree", "suite=quik"], "Did you mean 'quick'?"),
    "resume": (["resume=nothing"], "no gates there yet"),
    "reason without accept": (["base=tree", "--reason", "why"], "gate accept"),
    "accept without a case": (["accept", "--reason", "why", "--days", "3"], "no case is named"),
    "accept without a reason": (["accept", "gemm.*", "--days", "3"], "--reason"),
    "accept without an end": (["accept", "gemm.*", "--reason", "why"], "an exemption ends"),
    "accept until no day": (
        ["accept", "gemm.*", "--reason", "why", "--until", "soon"],
        "'soon' is no day",
    ),
    "accept until a day that is over": (
        ["accept", "gemm.*", "--reason", "why", "--until", "2026-01-01"],
        "2026-01-01 is over",
    ),
    "accept for ever": (["accept", "gemm.*", "--reason", "why", "--days", "9999"], "9999"),
    "accept without a limit": (
        ["accept", "gemm.*", "--reason", "why", "--days", "3"],
        "say how much slower",
    ),
    "calibrate with a base": (["calibrate", "base=main"], "against itself"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_one_line_and_exit_code_2(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = BAD[what]
    where = [f"results_dir={tmp_path}", f"gate.exemptions={tmp_path / 'exemptions.json'}"]
    kept = where[:1] if words[:1] == ["calibrate"] else where
    assert main(["gate", *words, *kept]) == 2
    told = capsys.readouterr().err
    assert expected in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "nothing is written for a mistake"


def test_an_empty_history_is_exit_code_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", "list", f"results_dir={tmp_path}"]) == 5
    assert "no gates there yet" in capsys.readouterr().err


def test_a_stored_run_cannot_be_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs")
    assert main(["gate", "base=tree", f"head=run:{RUN_ID}", f"results_dir={tmp_path}"]) == 2
    assert "chipscale compare" in capsys.readouterr().err


def test_a_damaged_file_of_exemptions_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "exemptions.json"
    file.write_text("{ damaged")
    words = ["accept", "gemm.*", "--reason", "why", "--days", "3", "--limit", "0.1"]
    assert main(["gate", *words, f"gate.exemptions={file}", f"results_dir={tmp_path}"]) == 2
    assert "exemptions.json" in capsys.readouterr().err
    assert file.read_text() == "{ damaged"


@pytest.mark.parametrize(
    ("states", "is_advisory", "code"),
    [
        ((State.UNCHANGED, State.IMPROVED, State.NOISY, State.NEW), False, 0),
        ((State.REGRESSED, State.INVALID), False, 3),
        ((State.REGRESSED,), True, 0),
        ((State.REGRESSED, State.INVALID), True, 4),
        ((State.INVALID, State.UNCHANGED), False, 4),
    ],
)
def test_the_exit_code_tells_a_regression_from_a_case_that_could_not_be_judged(
    states: tuple[State, ...], is_advisory: bool, code: int
) -> None:
    cases = tuple(case(place, state) for place, state in enumerate(states))
    assert exit_code(result(cases, is_advisory=is_advisory)) == code


def test_a_case_that_is_not_there_leaves_no_gate_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gate", "base=tree", "device=fake", "--case", "no.such*", f"results_dir={tmp_path}"]
    assert main(words) == 2
    assert "--case: 'no.such*' is none of" in capsys.readouterr().err
    assert not list(tmp_path.glob("gates/*"))


def test_a_damaged_file_of_exemptions_is_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "exemptions.json"
    file.write_text("{ damaged")
    words = [f"gate.exemptions={file}", f"results_dir={tmp_path}"]
    assert main(["gate", "base=tree", "device=fake", *words]) == 2
    assert "exemptions.json" in capsys.readouterr().err
    assert not list(tmp_path.glob("gates/*"))
