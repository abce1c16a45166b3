"""What a projection's interval is made of, in the terminal and as a chart."""

import dataclasses
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.projection import Cause, Projection
from harness.report import causes_plot, html
from harness.report.rows import CAUSES_TITLE
from harness.report.table import explanation_view
from tests.harness.report.test_table import text_of
from tests.harness.sample_run import sample_projection


def explained(num_causes: int = 3) -> Projection:
    middle = sample_projection().headline.step_time_s.value
    causes = tuple(
        Cause(
            name=f"input_{place}",
            title=f"rate of input {place}",
            advice=f"chipscale run suite=training input={place}",
            share=0.5 / 2**place,
            low_s=middle * (0.8 + 0.01 * place),
            high_s=middle * (1.3 - 0.01 * place),
        )
        for place in range(num_causes)
    )
    return dataclasses.replace(sample_projection(), causes=causes)


def test_each_cause_is_told_with_its_share_and_what_to_measure() -> None:
    text = text_of(explanation_view(explained()))
    assert CAUSES_TITLE in text
    for place, share in enumerate(("50", "25", "12")):
        assert f"rate of input {place}" in text
        assert f"suite=training input={place}" in text
        assert share in text


def test_the_largest_cause_comes_first() -> None:
    text = text_of(explanation_view(explained()))
    assert text.index("rate of input 0") < text.index("rate of input 1")


def test_bars_reach_from_the_step_to_the_ends_of_each_cause() -> None:
    projection = explained()
    middle = projection.headline.step_time_s.value
    shorter, longer = causes_plot.figure(projection).data
    for bars, end in ((shorter, "low_s"), (longer, "high_s")):
        ends = [base + x for base, x in zip([bars.base] * len(bars.x), bars.x, strict=True)]
        assert ends == [getattr(cause, end) for cause in reversed(projection.causes)]
        assert bars.base == middle


def test_a_cause_on_one_side_has_no_bar_beyond_the_step() -> None:
    projection = explained(1)
    middle = projection.headline.step_time_s.value
    (cause,) = projection.causes
    one_sided = dataclasses.replace(cause, low_s=1.1 * middle, high_s=1.2 * middle)
    figure = causes_plot.figure(dataclasses.replace(projection, causes=(one_sided,)))
    assert figure.data[0].x[0] == 0


def test_the_widest_cause_is_at_the_top_and_few_are_drawn() -> None:
    bars = causes_plot.figure(explained(20)).data[0]
    assert len(bars.y) == causes_plot.MOST_BARS
    assert bars.y[-1] == "rate of input 0"


def test_the_report_has_the_chart_where_there_are_causes() -> None:
    assert "plot-causes" in html.render(projection=explained())
    assert "plot-causes" not in html.render(projection=sample_projection())


SMALL = (
    *("model=llama3_8b", "cluster=h100_16k", "cluster.num_chips=64", "parallel.tensor=1"),
    *(
        "parallel.pipeline=1",
        "parallel.global_batch_tokens=1048576",
        "parallel.sequence_length=8192",
    ),
    "tracking.enabled=false",
)


@pytest.mark.parametrize("is_explained", [True, False])
def test_project_explains_its_interval_where_it_is_asked_to(
    is_explained: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.html"
    asked = [f"results_dir={tmp_path}", f"html={report}", f"explain={str(is_explained).lower()}"]
    assert main(["project", *SMALL, *asked]) == 0
    assert (CAUSES_TITLE in capsys.readouterr().out) == is_explained
    # The report has it in any case.
    assert "plot-causes" in report.read_text(encoding="utf-8")
