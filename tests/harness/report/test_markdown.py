import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.report import markdown
from tests.harness.sample_run import (
    sample_environment,
    sample_info,
    sample_projection,
    sample_records,
    sample_search,
)

PARSER = MarkdownIt("commonmark").enable("table")
TEXT = markdown.render(
    records=sample_records(),
    info=sample_info(),
    environment=sample_environment(),
    projection=sample_projection(),
)


def test_the_first_line_is_the_verdict_in_plain_text() -> None:
    first = TEXT.splitlines()[0]
    assert first.startswith("quick on imaginary_x1: 5 of 54 cases failed; 48 of 54 cases measured")
    assert not first.startswith(("#", "*", "|"))


def test_results_reasons_projection_and_environment_are_tables() -> None:
    page = PARSER.render(TEXT)
    assert page.count("<table>") == 7
    for words in ("rms_norm forward", "Wanted 16.0 GiB", "pipeline bubble", "Imaginary Core 9"):
        assert words in page


def test_what_is_farthest_from_its_roof_comes_first() -> None:
    results = TEXT.partition("farthest from its roof first")[2]
    assert results.index("T=1024 H=4096") < results.index("M=8192 N=8192 K=8192")


@given(st.text(max_size=60))
def test_any_text_stays_in_its_cell(text: str) -> None:
    page = PARSER.render(markdown.table(("a", "b"), [(text, "end")]))
    assert page.count("<td>") == 2
    assert "<td>end</td>" in page


def test_a_reason_with_markup_is_shown_as_it_is() -> None:
    records = [dataclasses.replace(sample_records()[-1], reason="<script>x</script> | a_b*c*")]
    page = PARSER.render(markdown.render(records=records, info=sample_info()))
    assert "<td>&lt;script&gt;x&lt;/script&gt; | a_b*c*</td>" in page


def test_other_kinds_of_plan_are_a_table() -> None:
    projection = dataclasses.replace(sample_projection(), search=sample_search())
    page = PARSER.render(markdown.render(projection=projection))
    assert "<td>TP8 PP8 DP781 CP2 ZeRO-1 10x microbatch 1</td>" in page
    assert "<td>0.4 % fewer tokens/s, a tie</td>" in page


def test_a_projection_alone_begins_with_its_headline() -> None:
    text = markdown.render(projection=sample_projection())
    assert text.startswith("llama3_405b on 100,000 x imaginary_x1: 28.2 Mtokens/s")
    assert "## Environment" not in text
