"""What people and CI read of a gate: terminal, Markdown, JUnit, annotations and page."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from expecttest import TestCase
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.codec import from_json
from harness.errors import NewerRecordError, RecordError
from harness.gate_result import GateResult, State
from harness.report import gate_annotations, gate_junit, gate_markdown, gate_page
from harness.report.gate_outputs import write_files, write_outputs
from harness.report.gate_table import gate_view
from harness.store.gate_folder import GateFolder, gate_folders
from tests.harness.report.gate_sample import case, flagged_cases, large, result, shifted

LONG = "error | `<b>` *of* _y_ at 0x7f [link](http://x) @all #1 \u00e9 " * 100
BAD = 'a|b`c</td><script>alert(1)</script>\\|\x1b[31m"\ud800\n::error::x'


def terminal(gate: GateResult, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(gate_view(gate))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


class TestGolden(TestCase):
    def test_the_terminal_has_the_verdict_first_and_what_did_not_change_as_a_number(self) -> None:
        few = result((*flagged_cases()[:4:2], *result().cases[-3:]))
        self.assertExpectedInline(
            terminal(few),
            """\
1 regression, 1 accepted regression of 5 on h200
origin/main (0123456) -> working tree (fedcba9-dirty), suite quick
warning: The clocks are not locked.
REGRESSED  attention.bf16.forward.1024.0/triton
  12.34 us -> 13.72 us  +11.2 % [+10.3, +12.1]
  Slower by 11.2 % in the screen and by 11.3 % in fresh rounds.
  tolerance 3 %: the user
  5 + 5 rounds, clock 1980 -> 1965 MHz
  chipscale gate base=main 'cases=[attention.bf16.forward.1024.0/triton]'
REGRESSED, accepted until 2026-12-31  rms_norm.bf16.forward.1024.2/triton
  37.02 us -> 39.24 us  +6.0 % [+5.1, +6.9]
  Slower by 6.0 %, and again.
  tolerance 3 %: the default
  5 + 5 rounds, clock 1980 -> 1965 MHz
  accepted by ada up to +8.0 % until 2026-12-31: the new epilogue; see #12
  chipscale gate base=main 'cases=[rms_norm.bf16.forward.1024.2/triton]'
3 unchanged
Expected false alarms of a gate of this size: 0.0042
base in MLflow: http://127.0.0.1:5177/#/experiments/1/runs/a?workflowType=machine_learning
head in MLflow: http://127.0.0.1:5177/#/experiments/1/runs/b?workflowType=machine_learning""",
        )

    def test_annotations_are_escaped_as_a_runner_reads_them(self) -> None:
        few = result((flagged_cases()[0], *flagged_cases()[2:4]))
        self.assertExpectedInline(
            "\n".join(gate_annotations.render(few)),
            """\
::error title=REGRESSED attention.bf16.forward.1024.0/triton on h200::12.34 us -> 13.72 us, +11.2 %25 [+10.3, +12.1]%0ASlower by 11.2 %25 in the screen and by 11.3 %25 in fresh rounds.%0ATolerance 3 %25: the user%0Achipscale gate base=main 'cases=[attention.bf16.forward.1024.0/triton]'
::warning title=REGRESSED%2C accepted until 2026-12-31 rms_norm.bf16.forward.1024.2/triton on h200::37.02 us -> 39.24 us, +6.0 %25 [+5.1, +6.9]%0ASlower by 6.0 %25, and again.%0ATolerance 3 %25: the default%0Achipscale gate base=main 'cases=[rms_norm.bf16.forward.1024.2/triton]'
::error title=INVALID swiglu.bf16.forward.1024.3/triton on h200::49.36 us -> -%0Ahead: incorrect | error of y is 0.2 <and> the bound 0.01%0Achipscale gate base=main 'cases=[swiglu.bf16.forward.1024.3/triton]'""",  # noqa: E501
        )

    def test_the_summary_begins_with_the_verdict_and_the_regressions(self) -> None:
        few = result((flagged_cases()[0], flagged_cases()[2], flagged_cases()[3]))
        self.assertExpectedInline(
            gate_markdown.render(few),
            """\
1 regression, 1 accepted regression, 1 invalid of 3 on h200

origin/main (0123456) -> working tree (fedcba9-dirty), suite quick of llama3_8b; 5 rounds and 5 to confirm, base and head in turns, a fresh process each. In MLflow: [base](http://127.0.0.1:5177/#/experiments/1/runs/a?workflowType=machine_learning), [head](http://127.0.0.1:5177/#/experiments/1/runs/b?workflowType=machine_learning).

- The clocks are not locked.

| state | case | base -> head | change [interval] | tolerance | why |
| --- | --- | ---: | ---: | --- | --- |
| REGRESSED | `attention.bf16.forward.1024.0/triton` | 12.34 us -> 13.72 us | +11.2 % \\[+10.3, +12.1] | 3 %: the user | Slower by 11.2 % in the screen and by 11.3 % in fresh rounds. Clock 1980 -> 1965 MHz. 5 + 5 rounds. |
| REGRESSED, accepted until 2026-12-31 | `rms_norm.bf16.forward.1024.2/triton` | 37.02 us -> 39.24 us | +6.0 % \\[+5.1, +6.9] | 3 %: the default | Slower by 6.0 %, and again. Clock 1980 -> 1965 MHz. 5 + 5 rounds. accepted by ada up to +8.0 % until 2026-12-31: the new epilogue; see #<!-- -->12. |
| INVALID | `swiglu.bf16.forward.1024.3/triton` | 49.36 us -> - |  | 3 %: the default | head: incorrect \\| error of y is 0.2 \\<and> the bound 0.01 |

<details><summary>Measure again</summary>

```sh
chipscale gate base=main 'cases=[attention.bf16.forward.1024.0/triton]'
chipscale gate base=main 'cases=[rms_norm.bf16.forward.1024.2/triton]'
chipscale gate base=main 'cases=[swiglu.bf16.forward.1024.3/triton]'
```

</details>

<details><summary>What was compared</summary>

- base: origin/main (0123456)
- head: working tree (fedcba9-dirty)
- suite: quick of llama3_8b
- chip: h200
- rounds: 5 rounds and 5 to confirm, base and head in turns, a fresh process each
- expected false alarms: at most 0.0042 in this gate
- measured: 2026-01-02T03:04:05+00:00 to 2026-01-02T03:14:35+00:00
- fingerprint: 0123456789ab
- gate: 20260102-030405-quick-h200-abcde
- command: chipscale gate base=origin/main suite=quick
- REGRESSED: slower by more than the tolerance, and again in fresh rounds
- INVALID: could not be judged: wrong, crashed, throttled, or not of equal work

</details>
""",  # noqa: E501
        )

    def test_a_case_of_junit_has_its_numbers_and_how_to_measure_it_again(self) -> None:
        root = ElementTree.fromstring(gate_junit.render(result(flagged_cases()[:1])))
        found = root.find("testsuite/testcase")
        assert found is not None
        self.assertExpectedInline(
            ElementTree.tostring(found, encoding="unicode"),
            """\
<testcase classname="chipscale.quick.attention" name="attention.bf16.forward.1024.0/triton" time="0.000013722">
      <properties>
        <property name="state" value="REGRESSED" />
        <property name="base" value="12.34 us" />
        <property name="head" value="13.72 us" />
        <property name="change" value="+0.1120" />
        <property name="interval" value="+0.1030 to +0.1210" />
        <property name="tolerance" value="3 %: the user" />
        <property name="chip" value="h200" />
        <property name="base clock" value="1980 MHz" />
        <property name="head clock" value="1965 MHz" />
      </properties>
      <failure message="+11.2 % [+10.3, +12.1] Slower by 11.2 % in the screen and by 11.3 % in fresh rounds." type="REGRESSED">12.34 us -&gt; 13.72 us
Tolerance 3 %: the user
chipscale gate base=main 'cases=[attention.bf16.forward.1024.0/triton]'
base in MLflow: http://127.0.0.1:5177/#/experiments/1/runs/a?workflowType=machine_learning
head in MLflow: http://127.0.0.1:5177/#/experiments/1/runs/b?workflowType=machine_learning</failure>
    </testcase>
  """,  # noqa: E501
        )


def test_a_shift_of_the_whole_suite_is_told_before_its_cases() -> None:
    text = terminal(shifted())
    assert text.splitlines()[0] == "12 regressions of 12 on h200 (advisory)"
    assert "warning: Whole-suite shift of +4.0 %" in text
    assert "The driver differs" in text


def test_a_long_list_in_the_terminal_ends_with_how_many_are_left() -> None:
    assert "and 10 more in gate.html" in terminal(large(50))


def test_headlines_say_when_there_is_no_regression() -> None:
    same = tuple(case(place, State.UNCHANGED) for place in range(3))
    assert result(same).headline == "No regression in 3 cases on h200"
    assert result((*same, flagged_cases()[7])).headline == (
        "No regression, 1 improved of 4 on h200"
    )
    assert result(()).headline == "Nothing was judged on h200"


def test_an_accepted_regression_is_told_apart_and_fails_nothing() -> None:
    gate = result(flagged_cases()[2:3])
    assert gate.headline == "No regression, 1 accepted regression of 1 on h200"
    suite = ElementTree.fromstring(gate_junit.render(gate))
    assert suite.get("failures") == "0"
    assert gate_annotations.render(gate)[0].startswith("::warning ")
    assert "until 2026-12-31" in gate_markdown.render(gate)


def test_five_thousand_cases_with_long_reasons_stay_under_githubs_limits() -> None:
    gate = large(5000, LONG)
    summary = gate_markdown.render(gate)
    assert 800_000 < gate_markdown.size_bytes(summary) <= gate_markdown.MAX_SUMMARY_BYTES
    assert summary.count("<details>") == summary.count("</details>") == 3
    assert re.search(r"^And \d+ more in gate\.html and junit\.xml\.$", summary, re.MULTILINE)
    comment = gate_markdown.comment(gate)
    assert gate_markdown.size_bytes(comment) <= gate_markdown.MAX_COMMENT_BYTES
    assert len(gate_annotations.render(gate)) == 10


@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(st.text(max_size=3000), min_size=1, max_size=3),
    num_cases=st.integers(0, 120),
    max_bytes=st.integers(gate_markdown.MIN_BYTES * 2, 80_000),
)
def test_whatever_the_texts_say_the_markdown_stays_in_its_size(
    texts: list[str], num_cases: int, max_bytes: int
) -> None:
    cases = tuple(
        case(place, State.REGRESSED, change=0.1, reason=text, case_id=text, reproduce=text)
        for place, text in zip(range(num_cases), texts * num_cases, strict=False)
    )
    gate = result(cases, warnings=tuple(texts * 20))
    assert gate_markdown.size_bytes(gate_markdown.render(gate, max_bytes=max_bytes)) <= max_bytes
    assert all(len(line.encode("utf-8", "replace")) < 60_000 for line in _lines(gate))


def _lines(gate: GateResult) -> tuple[str, ...]:
    lines = gate_annotations.render(gate)
    assert len(lines) <= 10
    assert not any("\n" in line or "\r" in line for line in lines)
    return lines


def test_a_row_of_markdown_keeps_its_columns_whatever_a_reason_holds() -> None:
    gate = result((case(0, State.REGRESSED, change=0.1, reason=BAD, case_id=BAD),))
    row = next(
        line for line in gate_markdown.render(gate).splitlines() if line.startswith("| REGRESSED")
    )
    cells = re.split(r"(?<!\\)\|", re.sub(r"\\\\", "", row))
    assert len(cells) == len(gate_markdown.HEADS) + 2
    assert not re.search(r"(?<!\\)<(?!/?code>|!-- -->)", row)


def test_nobody_is_notified_by_a_name_in_a_reason() -> None:
    gate = result((case(0, State.REGRESSED, change=0.1, reason="see @ada and #12"),))
    assert "@ada" not in gate_markdown.comment(gate)
    assert "#12" not in gate_markdown.comment(gate)


def test_the_comment_of_one_suite_and_chip_is_always_found_by_the_same_line() -> None:
    first, again = (gate_markdown.comment(gate).splitlines()[0] for gate in (result(), shifted()))
    other = gate_markdown.comment(result(chip="mi300x")).splitlines()[0]
    assert first == again == "<!-- chipscale-gate: quick-h200 -->"
    assert other != first


JUNIT_ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "testcase": {"name", "classname", "time"},
    "properties": set(),
    "property": {"name", "value"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
}
JUNIT_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "testcase": {"properties", "failure", "error", "skipped"},
    "properties": {"property"},
}


@pytest.mark.parametrize("gate", [result(), shifted(), result(()), result((case(0, State.NEW),))])
def test_junit_holds_what_the_schema_of_jenkins_allows(gate: GateResult) -> None:
    for element in ElementTree.fromstring(gate_junit.render(gate)).iter():
        assert set(element.keys()) <= JUNIT_ATTRIBUTES[element.tag]
        children = [child.tag for child in element]
        assert set(children) <= JUNIT_CHILDREN.get(element.tag, set())
        if element.tag == "testcase":
            assert sum(child != "properties" for child in children) <= 1


def test_states_are_the_outcomes_that_ci_counts() -> None:
    root = ElementTree.fromstring(gate_junit.render(result()))
    suite = root.find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "20", "failures": "2", "errors": "1", "skipped": "3"}
    assert len(suite.findall("testcase/failure")) == 2
    names = [found.get("name") for found in suite.findall("testcase")]
    assert len(set(names)) == len(names)


def test_what_xml_cannot_hold_does_not_break_the_file() -> None:
    gate = result((case(0, State.INVALID, reason=BAD, reproduce=BAD),), warnings=(BAD,))
    ElementTree.fromstring(gate_junit.render(gate).encode("utf-8"))


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = self.rows = 0
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.rows += tag == "tr"
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def read_page(gate: GateResult) -> Tags:
    tags = Tags()
    tags.feed(gate_page.render(gate))
    return tags


def test_the_page_loads_nothing_and_runs_nothing_of_a_reason() -> None:
    hostile = read_page(result((case(0, State.REGRESSED, change=0.1, reason=BAD, case_id=BAD),)))
    tame = read_page(result((case(0, State.REGRESSED, change=0.1),)))
    assert hostile.scripts == tame.scripts
    assert all(link.startswith(("#", "data:", "http://127.0.0.1")) for link in hostile.links)


def test_the_page_has_a_row_for_every_case() -> None:
    assert read_page(result()).rows == 1 + 20


def test_a_page_of_a_gate_without_cases_still_says_what_was_compared() -> None:
    page = gate_page.render(result(()))
    assert "Nothing was judged on h200" in page
    assert "origin/main (0123456)" in page


def test_every_output_is_written_and_github_is_told(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("Before.\n", encoding="utf-8")
    told: list[str] = []
    folder = tmp_path / "gates" / "a"
    github = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"}
    write_outputs(result(), folder, environment=github, tell=told.append)
    names = ["gate.html", "gate.json", "gate.md", "gate_comment.md", "junit.xml"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert summary.read_text(encoding="utf-8").startswith("Before.\n\n## 2 regressions")
    assert len(told) == 7


def test_elsewhere_than_on_github_nothing_is_printed(tmp_path: Path) -> None:
    told: list[str] = []
    write_outputs(result(), tmp_path, environment={}, tell=told.append)
    assert told == []


def test_a_summary_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    told: list[str] = []
    github = {"GITHUB_STEP_SUMMARY": str(tmp_path / "nowhere" / "summary.md")}
    write_outputs(result(), tmp_path / "a", environment=github, tell=told.append)
    assert len(told) == 1
    assert "cannot be written (No such file or directory)" in told[0]
    assert (tmp_path / "a" / "junit.xml").is_file()


def test_the_confidence_of_intervals_is_told_with_what_was_compared() -> None:
    cases = (
        case(0, State.UNCHANGED, change=0.0, confidence=0.9375),
        case(1, State.REGRESSED, change=0.1, confidence=0.951),
    )
    assert "- intervals: of 93.8 to 95.1 % confidence" in gate_markdown.render(result(cases))


def test_a_summary_that_is_full_already_is_left_as_it_is(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("x" * 890_000, encoding="utf-8")
    github = {"GITHUB_STEP_SUMMARY": str(summary)}
    write_outputs(large(5), tmp_path / "a", environment=github)
    assert summary.stat().st_size == 890_000


def test_the_json_is_the_result_and_is_read_back(tmp_path: Path) -> None:
    gate = result()
    write_files(gate, tmp_path / "gates" / gate.gate_id)
    folder = gate_folders(tmp_path / "gates")[0]
    assert folder.result == gate
    assert from_json(GateResult, (folder.path / "gate.json").read_text()) == gate


def test_a_gate_of_a_newer_chipscale_or_a_damaged_one_is_told_in_one_line(tmp_path: Path) -> None:
    folder = GateFolder(tmp_path)
    with pytest.raises(RecordError, match=r"no gate\.json there"):
        _ = folder.result
    (tmp_path / "gate.json").write_text('{"schema_version":99}', encoding="utf-8")
    with pytest.raises(NewerRecordError, match="Update chipscale"):
        _ = folder.result
    (tmp_path / "gate.json").write_text('{"schema_ver', encoding="utf-8")
    with pytest.raises(RecordError, match="not JSON"):
        _ = folder.result
