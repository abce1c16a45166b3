"""Projections side by side: who is best, who is not told apart, and what cannot be projected."""

import pytest
from rich.console import Console

from harness.projection import Interval, Source
from harness.report import side_by_side_page
from harness.report.side_by_side_rows import best_columns, best_sentence, price_sentences
from harness.report.side_by_side_table import side_by_side_view
from harness.side_by_side import Outcome, Pair, SideBySide


def outcome(tokens: float, ratio: Interval, basis: str = "rent") -> Outcome:
    return Outcome(
        chip="h100_sxm",
        num_chips=100_000,
        plan="TP8 PP16 DP781 VP4 ZeRO-1 11x microbatch 1",
        held_back_by="pipeline bubble",
        tokens_per_second=Interval(value=tokens, low=0.8 * tokens, high=1.1 * tokens),
        mfu=tokens / 1e8,
        goodput=0.8,
        useful_tokens_per_second=Interval(value=0.8 * tokens, low=0.6 * tokens, high=0.9 * tokens),
        site_w=150e6,
        joules_per_token=150e6 / tokens,
        currency="USD",
        cost_per_million_tokens=1e8 / tokens,
        price_basis=basis,
        batch_share=0.5,
        source_share=((Source.ROOFLINE, 1.0),),
        uncalibrated=(),
        is_software_calibrated=False,
        of_best=ratio,
        has_common_draws=True,
    )


FIRST = Pair(model="m", cluster="fast", outcome=outcome(40e6, Interval(value=1, low=1, high=1)))
CLOSE = Pair(
    model="m",
    cluster="close",
    outcome=outcome(38e6, Interval(value=0.95, low=0.8, high=1.1), "purchase"),
)
FAR = Pair(model="m", cluster="far", outcome=outcome(10e6, Interval(value=0.25, low=0.2, high=0.3)))
FAILED = Pair(model="m", cluster="none", reason="plan: <no> replica fits.")
COMPARED = SideBySide(pairs=(FIRST, CLOSE, FAR, FAILED))


def test_a_cluster_whose_ratio_reaches_one_is_not_told_apart() -> None:
    text = best_sentence("m", COMPARED.pairs)
    assert "most useful tokens on fast" in text
    assert "not told apart from close." in text


def test_the_best_of_each_column_is_marked_once() -> None:
    best = best_columns((FIRST, CLOSE, FAR))
    assert {1, 2, 4, 6, 7} <= best["fast"]
    assert not {1, 2, 4, 6, 7} & best["far"]


def test_rent_beside_purchase_is_said() -> None:
    (sentence,) = price_sentences(COMPARED)
    assert "rent is not purchase" in sentence


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_the_table_is_wider_than_the_terminal(width: int) -> None:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(side_by_side_view(COMPARED))
    text = capture.get()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "40.0 M (32.0-44.0)*" in text
    assert "plan: <no> replica fits." in text


def test_the_page_has_the_reason_of_a_pair_that_failed() -> None:
    page = side_by_side_page.render(compared=COMPARED, projections={}, links={})
    assert "plan: &lt;no&gt; replica fits." in page
