"""A projection of serving for the terminal."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.report.serving_rows import (
    FRONT_HEADS,
    NUM_TEXTS,
    POOL_HEADS,
    ROLES,
    pool_row,
    serving_facts,
)
from harness.report.table import MAX_ASSUMPTIONS
from harness.serving_projection import FrontPoint, ServingPool, ServingProjection, serving_headline
from harness.units import duration, significant

BAR_WIDTH = 24
MAX_FRONT_ROWS = 8


def serving_view(projection: ServingProjection) -> RenderableType:
    """Headline, facts, pools, a pass of each taken apart, the front, and what is trusted."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in serving_facts(projection):
        facts.add_row(Text(name), Text(value))
    best = projection.best
    body: list[RenderableType] = [
        Text(serving_headline(projection), style="bold"),
        Text(""),
        facts,
        Text(""),
        _pools(best.pools),
    ]
    for pool in best.pools:
        body += [
            Text(""),
            Text(f"One pass of what {ROLES[pool.role]}:", style="bold"),
            Padding(_parts(pool), (0, 0, 0, 2)),
        ]
    body += [Text(""), Text("Pareto front:", style="bold"), _front(projection.front)]
    trust = [Text(f"- {text}") for text in projection.assumptions[:MAX_ASSUMPTIONS]]
    more = len(projection.assumptions) - MAX_ASSUMPTIONS
    if more > 0:
        trust.append(Text(f"- and {more} more in the report", style="dim"))
    if trust:
        body += [Text(""), Text("Taken on trust:", style="bold"), *trust]
    return Panel(Group(*body), title="Serving", title_align="left", expand=False)


def _plain(heads: tuple[str, ...], num_texts: int) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < num_texts else "right", overflow="fold")
    return table


def _pools(pools: tuple[ServingPool, ...]) -> Table:
    table = _plain(POOL_HEADS, NUM_TEXTS)
    for pool in pools:
        table.add_row(*(Text(word) for word in pool_row(pool)))
    return table


def _parts(pool: ServingPool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    total = sum(part.seconds for part in pool.parts)
    for part in pool.parts:
        share = part.seconds / total
        table.add_row(
            Text(part.name),
            Text(duration(part.seconds)),
            Text(f"{significant(100 * share, 2)} %"),
            Text("#" * round(BAR_WIDTH * share), style="cyan"),
        )
    return table


def _front(points: tuple[FrontPoint, ...]) -> Table:
    """Some of the points, the ends among them."""
    table = _plain(FRONT_HEADS[2:] + FRONT_HEADS[:1], 0)
    step = max(1, -(-len(points) // MAX_FRONT_ROWS))
    for point in (*points[:-1:step], *points[-1:]):
        table.add_row(
            Text(significant(point.tokens_per_s_per_user.value)),
            Text(significant(point.tokens_per_s_per_chip.value)),
            Text(significant(point.sequences_per_chip)),
            Text(point.label),
        )
    return table
