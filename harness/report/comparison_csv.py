"""A comparison of chips as a table for a spreadsheet: a line for each case, op group and bar."""

import csv
import io
from collections.abc import Iterator

from harness.comparison import ChipComparison, RunPair

HEADS = (
    "row",
    "run",
    "reference",
    "phase",
    "name",
    "problems",
    "reference_s",
    "run_s",
    "speedup",
    "low",
    "high",
    "verdict",
    "reference_roof_share",
    "run_roof_share",
    "joules_ratio",
    "remarks",
)
"""`row` is mean, group, case, step or bar. The bars of a step lead from its `reference_s` to its
`run_s`; the `run_s` of a bar is the seconds that it adds."""


def render(comparison: ChipComparison) -> str:
    """All pairs below each other."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for pair in comparison.pairs:
        for kind, values in _lines(pair):
            ids = (comparison.run(pair.label).run_id, comparison.reference.run_id)
            writer.writerow([kind, *ids, *("" if value is None else value for value in values)])
    return text.getvalue()


def _lines(pair: RunPair) -> Iterator[tuple[str, tuple[object, ...]]]:
    for mean in pair.means:
        ratio = (mean.speedup.value, mean.speedup.low, mean.speedup.high)
        shares = (mean.first_roof_share, mean.second_roof_share, mean.joules_ratio)
        yield (
            "mean",
            (
                *(mean.phase or "all", "", mean.num_problems, None, None),
                *(*ratio, mean.verdict, *shares, ""),
            ),
        )
    for group in pair.groups:
        ratio = (group.speedup.value, group.speedup.low, group.speedup.high)
        shares = (group.first_roof_share, group.second_roof_share, group.joules_ratio)
        yield (
            "group",
            (
                *(group.phase, group.group, group.num_problems, group.first_s, group.second_s),
                *(*ratio, group.verdict, *shares, "; ".join(group.remarks)),
            ),
        )
    for case in pair.cases:
        remarks = "; ".join([*([case.difference] if case.difference else []), *case.remarks])
        yield (
            "case",
            (
                *(
                    "",
                    case.case_id,
                    1,
                    case.first_s,
                    case.second_s,
                    case.speedup,
                    case.low,
                    case.high,
                ),
                *(case.verdict, None, None, None, remarks),
            ),
        )
    for waterfall in pair.waterfalls:
        times = (waterfall.first_s, waterfall.second_s)
        yield (
            "step",
            (
                *(waterfall.phase, waterfall.title, waterfall.num_ops, *times),
                *(times[0] / times[1], None, None, "", None, None, None),
                "; ".join(waterfall.notes),
            ),
        )
        for bar in waterfall.bars:
            yield (
                "bar",
                (
                    *(
                        waterfall.phase,
                        bar.cause,
                        waterfall.num_ops,
                        waterfall.first_s,
                        bar.seconds,
                    ),
                    *(None, None, None, "", None, None, None, waterfall.title),
                ),
            )
