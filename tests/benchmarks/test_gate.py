import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch

from harness.codec import to_json
from harness.errors import ConfigError, RecordError
from harness.gate.policy import GatePolicy
from harness.record import Status
from kernels import registry
from tests.benchmarks import gate
from tests.benchmarks.gate_measured import (
    PROBLEMS,
    Bench,
    MeasuredRound,
    MeasuredSuites,
    Samples,
    case_of,
    make_tree,
    setup,
)
from tests.benchmarks.gate_page import BEGIN, END, with_rates
from tests.benchmarks.gate_rates import error_rates
from tests.benchmarks.gate_rules import rules
from tests.benchmarks.gate_slow_ops import slowed
from tests.benchmarks.gate_trials import LEVELS

POLICY = GatePolicy()
NEAR = tuple(1 + each / 2000 for each in range(-4, 5))
"""Samples around their median; fewer than five a side cannot be significant at 5 %."""


def samples(place: int, level: float, scale: float = 1.0) -> Samples:
    return Samples(
        case=place,
        level=level,
        status=Status.OK,
        samples_s=tuple(1e-3 * scale * (1 + level) * one for one in NEAR),
        timer_resolution_s=1e-9,
    )


def measured(
    suite: int, number: int, levels: Collection[float] = (0.0,), scale: float = 1.0
) -> MeasuredRound:
    places = range(len(PROBLEMS))
    return MeasuredRound(
        suite=suite,
        number=number,
        base_first=number % 2 == 0,
        base=tuple(samples(place, 0.0) for place in places),
        head=tuple(samples(place, level, scale) for place in places for level in levels),
        started_at="2026-01-02T03:04:05+00:00",
        seconds=1.0,
        load=0.5,
    )


def two_suites() -> MeasuredSuites:
    """One with slow-downs and all its rounds, one that is A/A alone and was not flagged."""
    rounds = [measured(0, number, (0.0, *LEVELS)) for number in range(10)]
    rounds += [measured(1, number) for number in range(5)]
    return MeasuredSuites(rounds=tuple(rounds), num_rounds=5)


def test_each_case_is_slower_once_a_level_and_each_suite_is_judged_with_nothing_slower() -> None:
    suites = two_suites()
    assert len(list(suites.nothing())) == 2
    slower = [(one.level, case) for one in suites.really_slower() for case in one.slower]
    assert sorted(slower) == sorted(
        (level, case_of(place).id) for level in LEVELS for place in range(len(PROBLEMS))
    )


def test_every_rule_finds_what_is_slower_and_nothing_where_nothing_is() -> None:
    suites = two_suites()
    slower = [one for one in suites.really_slower() if one.level == 0.10]
    for rule in rules(POLICY, None):
        if "not confirmed" in rule.name or "5 %" in rule.name:
            continue
        (rates,) = error_rates([rule], [*suites.nothing(), slower[0]])
        assert rates.alarms_per_case.count == 0
        assert [one.found.value for one in rates.power] == [1.0]
        assert rates.alarms_beside.count == 0


def test_a_suite_slower_as_a_whole_is_found_as_well() -> None:
    for level in LEVELS[1:]:
        trials = [one for one in two_suites().all_slower() if one.level == level]
        (rates,) = error_rates(rules(POLICY, None)[:1], trials)
        assert rates.power[0].found.value == 1.0


def test_a_suite_that_was_stopped_in_its_first_rounds_does_not_count() -> None:
    rounds = (*two_suites().rounds, measured(2, 0))
    assert len(list(MeasuredSuites(rounds=rounds, num_rounds=5).nothing())) == 2


def test_rounds_of_another_setup_are_refused(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, tree=tmp_path, policy=POLICY)
    assert bench.kept() == []
    bench.file.write_text("another\n", encoding="utf-8")
    with pytest.raises(RecordError, match="of other cases or rules of measuring"):
        bench.kept()
    bench.file.write_text(f"{setup()}\n{to_json(measured(0, 0))}\n", encoding="utf-8")
    assert bench.kept() == [measured(0, 0)]


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, tree=tmp_path, policy=POLICY)
    line = to_json(measured(0, 0))
    bench.file.write_text(f"{setup()}\n{line}\n{line[:50]}", encoding="utf-8")
    assert bench.kept() == [measured(0, 0)]


def test_a_slower_implementation_does_the_same_and_takes_longer() -> None:
    op = slowed(registry.load)("gelu")
    small = PROBLEMS[2]
    inputs = op.make_inputs(small, torch.Generator().manual_seed(0))
    run, slower = (op.impl(name).prepare(small, inputs) for name in ("torch", "torch_slow_0.2"))
    assert torch.equal(run()[0], slower()[0])
    assert {f"torch_slow_{level:g}" for level in LEVELS} <= {impl.name for impl in op.impls}


def test_a_fresh_process_measures_the_cases_and_the_slower_ones(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    bench = Bench(folder=tmp_path, tree=tree, policy=POLICY)
    found = bench._process([0], (0.0, 0.2))
    assert [(one.case, one.level, one.status) for one in found] == [
        (0, 0.0, Status.OK),
        (0, 0.2, Status.OK),
    ]
    assert all(len(one.samples_s) == 100 for one in found)


def test_the_table_and_the_file_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = "\n".join(to_json(one) for one in two_suites().rounds)
    (tmp_path / "rounds.jsonl").write_text(f"{setup()}\n{rounds}\n", encoding="utf-8")
    out, page = tmp_path / "gate.json", tmp_path / "gate.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    arguments = [
        "--suites",
        "0",
        "--simulated",
        "1",
        "--simulated-cases",
        "20",
        "--page",
        str(page),
    ]
    assert gate.main([*arguments, "--folder", str(tmp_path), "--out", str(out)]) in (0, 1)
    shown = capsys.readouterr().out
    assert "pytest-benchmark median:5%" in shown
    assert "0 of 24 (< 14 %)" in shown
    assert "Every case slower: the suite has shifted" in shown
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["here"]["num_suites"] == 2
    assert [one["level"] for one in written["measured"][0]["power"]] == list(LEVELS)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n\n### An imaginary GPU\n")
    assert text.endswith(f"|\n\n{END}\nafter\n")
    assert "old" not in text.split()
    assert "| gate, 3 % | 10, 20 flagged | 0 of 24 (< 14 %) | 0 of 2 (< 84 %) |" in text
    assert "a first look, too few to say how often a rule is wrong" in text


def test_a_page_without_a_place_for_the_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="The page has no lines"):
        with_rates("nothing", None)  # type: ignore[arg-type]
