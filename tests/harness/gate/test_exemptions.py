from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from harness.case_pattern import matches
from harness.errors import ConfigError, NewerRecordError, RecordError
from harness.gate.exemptions import (
    ExemptionsFile,
    checked,
    exemption_of,
    exemptions_text,
    has_expired,
    read_exemptions,
)
from harness.gate_result import Exemption

CASE = "gemm.bf16.forward[M=1,N=2,K=3]/triton"
EXEMPTION = Exemption(
    case_id=CASE,
    limit=0.08,
    reason="Needs the next driver.",
    until="2026-06-15",
    author="kim",
    commit="abc",
    created_at="2026-06-01T00:00:00+00:00",
)
TODAY = date(2026, 6, 15)


def test_it_holds_through_its_last_day_and_not_after() -> None:
    assert not has_expired(EXEMPTION, date(2026, 6, 14))
    assert not has_expired(EXEMPTION, date(2026, 6, 15))
    assert has_expired(EXEMPTION, date(2026, 6, 16))


@pytest.mark.parametrize(
    ("pattern", "is_meant"),
    [
        (CASE, True),
        ("gemm.*/triton", True),
        ("*", True),
        ("*[M=1,N=2,K=3]*", True),
        ("gemm", False),
        ("gemm.*/torch", False),
        ("gemm?bf16*", False),
        ("gemm.bf16.forward[M1]/triton", False),
    ],
)
def test_a_star_stands_for_any_text_and_all_else_for_itself(pattern: str, is_meant: bool) -> None:
    assert matches(pattern, CASE) is is_meant


def test_a_regression_up_to_the_limit_passes() -> None:
    assert exemption_of(CASE, 0.08, [EXEMPTION], TODAY) == (EXEMPTION, "")


def test_a_larger_regression_does_not_and_the_limit_is_told() -> None:
    assert exemption_of(CASE, 0.081, [EXEMPTION], TODAY) == (
        None,
        "No exemption covers it: the one until 2026-06-15 goes to 8 %.",
    )


def test_after_its_last_day_it_does_not_and_its_expiry_is_told() -> None:
    assert exemption_of(CASE, 0.05, [EXEMPTION], date(2026, 6, 16)) == (
        None,
        "No exemption covers it: the one until 2026-06-15 has expired (Needs the next driver).",
    )


def test_of_several_the_widest_is_named() -> None:
    wide = replace(EXEMPTION, case_id="gemm.*", limit=0.2)
    assert exemption_of(CASE, 0.05, [EXEMPTION, wide], TODAY) == (wide, "")


def test_exemptions_of_other_cases_are_not_told() -> None:
    assert exemption_of("copy", 0.05, [EXEMPTION], TODAY) == (None, "")


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = ExemptionsFile().with_exemption(EXEMPTION)
    path = tmp_path / "exemptions.json"
    path.write_text(exemptions_text(file), encoding="utf-8")
    assert read_exemptions(path) == file
    assert read_exemptions(tmp_path / "none.json") == ExemptionsFile()


def test_a_later_exemption_of_the_same_cases_replaces_the_earlier() -> None:
    later = replace(EXEMPTION, limit=0.2)
    file = ExemptionsFile().with_exemption(EXEMPTION).with_exemption(later)
    assert file.exemptions == (later,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"until": "soon"}, "until: 'soon' is no day. Write the last day it holds as 2026-12-31."),
        ({"limit": 0.0}, "limit: 0 is no slow-down to accept"),
        ({"limit": float("nan")}, "limit: nan is no slow-down to accept"),
        ({"reason": " "}, "reason: empty"),
        ({"case_id": ""}, "case_id: empty"),
    ],
)
def test_one_that_cannot_be_meant_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    wrong = replace(EXEMPTION, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as raised:
        checked(wrong)
    assert message in str(raised.value)
    path = tmp_path / "exemptions.json"
    path.write_text(exemptions_text(ExemptionsFile(exemptions=(wrong,))), encoding="utf-8")
    with pytest.raises(RecordError) as read:
        read_exemptions(path)
    assert str(read.value).startswith(f"{path}: exemptions[0].")


def test_a_file_of_a_newer_chipscale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "exemptions.json"
    path.write_text('{"schema_version": 9}', encoding="utf-8")
    with pytest.raises(NewerRecordError):
        read_exemptions(path)
