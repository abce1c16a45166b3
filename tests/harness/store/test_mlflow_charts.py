import base64
import json
import zlib
from typing import Any

from harness.store.mlflow.charts import MAX_OPEN, suite_sections
from harness.store.mlflow.views import COMPRESSED, MAX_VIEW, SUITE_VIEWS, View, with_charts


def restored(view: View) -> dict[str, Any]:
    packed = json.loads(view.value(0))["state"].removeprefix(COMPRESSED)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_sweeps_come_first_and_time_before_rates() -> None:
    sections = suite_sections(
        [
            ("roofs/bf16.tflops", 0),
            ("adamw.bf16.forward/gbps.N8.torch", 0),
            ("gemm.bf16.forward/tflops.N4.torch", 64),
            ("gemm.bf16.forward/joules.N4.torch", 64),
            ("gemm.bf16.forward/median_us.N4.torch", 64),
        ]
    )
    assert [section.name for section in sections] == [
        "gemm.bf16.forward",
        "adamw.bf16.forward",
        "roofs",
    ]
    assert [(chart.key, chart.is_line) for chart in sections[0].charts] == [
        ("gemm.bf16.forward/median_us.N4.torch", True),
        ("gemm.bf16.forward/tflops.N4.torch", True),
    ]
    assert not sections[1].charts[0].is_line
    assert [section.is_open for section in sections] == [True, True, False]


def test_thousands_of_charts_fit_into_a_tag_and_few_of_them_are_drawn_at_once() -> None:
    points = [
        (f"op{number // 8}.bf16.forward/median_us.N{number * 977}.triton", 0)
        for number in range(10_000)
    ]
    views = with_charts(SUITE_VIEWS, suite_sections(points))
    for view in views:
        assert len(view.value(10**13)) <= MAX_VIEW
        state = restored(view)
        drawn = {one["uuid"] for one in state["compareRunSections"] if one["display"]}
        charts = state["compareRunCharts"]
        assert 0 < sum(one["metricSectionId"] in drawn for one in charts) <= MAX_OPEN


def test_the_charts_of_a_view_belong_to_its_sections() -> None:
    sections = suite_sections([("gemm.bf16.forward/median_us.N4.torch", step) for step in (1, 2)])
    state = restored(with_charts(SUITE_VIEWS, sections)[0])
    (chart,) = state["compareRunCharts"]
    (section,) = state["compareRunSections"]
    assert chart["metricSectionId"] == section["uuid"]
    assert chart["type"] == "LINE"
    assert chart["xAxisScaleType"] == "log"
