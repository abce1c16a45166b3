"""`chipscale project models=[...] clusters=[...]`: a projection of each pair, and all compared."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from os.path import relpath
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from harness.cli.finish import track
from harness.cli.projecting import Projected, check_report_file, keep, new_folder, projected
from harness.config.build import ProjectRequest, project_request, tracking_request
from harness.config.calibration import shipped_calibration
from harness.config.compose import compose
from harness.config.pairs import PairOverrides, pair_overrides
from harness.config.this_chip import this_chip
from harness.errors import (
    CASE_FAILED_EXIT_CODE,
    TRACKING_REQUIRED_EXIT_CODE,
    ChipscaleError,
    ConfigError,
    PlanError,
)
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.ratio import DrawnStep, throughput_ratio
from harness.projection import Projection
from harness.report import side_by_side_page
from harness.report.side_by_side_table import side_by_side_view
from harness.report.table import explanation_view
from harness.results import projection_headline
from harness.run import find_run
from harness.side_by_side import Outcome, Pair, SideBySide, useful
from harness.store.disk import write_atomically
from harness.store.folder import REPORT_HTML, RunFolder

COMPARISON = "comparison.json"
"""The comparison as data, beside its report."""


def main(options: argparse.Namespace, config: DictConfig) -> int:
    """Project each pair, show and keep all of them and their comparison.

    A pair that cannot be projected is a row with its reason; the others go on.

    Raises:
        ConfigError: for a mistake in what all pairs share.
    """
    pairs = pair_overrides(config, options.overrides, options.config_dir)
    runs = [str(name) for name in config["runs"]]
    results_dir = Path(config["results_dir"]).resolve()
    html_file = Path(config["html"]) if config["html"] else None
    console = Console(highlight=False)
    made: dict[PairOverrides, Projected] = {}
    folders: dict[PairOverrides, RunFolder] = {}
    reasons: dict[PairOverrides, ChipscaleError] = {}
    check_report_file(html_file)
    for place, pair in enumerate(pairs, 1):
        with console.status(
            f"projecting {pair.model} on {pair.cluster} ({place} of {len(pairs)}) ..."
        ):
            try:
                request = _request(pair, runs, options.config_dir)
                made[pair] = projected(request, options.config_dir)
            except (PlanError, ConfigError) as error:
                reasons[pair] = error
                text = f"{pair.model} on {pair.cluster}: not projected"
                console.print(text, style="yellow", markup=False, soft_wrap=True)
                continue
            folders[pair] = keep(made[pair])
        console.print(projection_headline(made[pair].projection), markup=False, soft_wrap=True)
        if request.is_explained:
            console.print(explanation_view(made[pair].projection))
    if not made and len({str(error) for error in reasons.values()}) == 1:
        raise next(iter(reasons.values()))
    compared = _compared(pairs, made, folders, reasons)
    console.print()
    console.print(side_by_side_view(compared))
    comparison = new_folder(results_dir, "side-by-side")
    report = (html_file or comparison.path / REPORT_HTML).resolve()
    comparison.write(COMPARISON, compared)
    page = side_by_side_page.render(
        compared=compared,
        projections={(pair.model, pair.cluster): one.projection for pair, one in made.items()},
        links={
            (pair.model, pair.cluster): relpath(folder.path / REPORT_HTML, report.parent)
            for pair, folder in folders.items()
        },
    )
    write_atomically(report, page)
    console.print(f"Report: {report}", markup=False, soft_wrap=True)
    console.print(f"As data: {comparison.path / COMPARISON}", markup=False, soft_wrap=True)
    tracking = tracking_request(config)
    # Each has the time that it would have alone.
    tracking = replace(tracking, timeout_s=tracking.timeout_s * max(1, len(folders)))
    if not track(list(folders.values()), results_dir, tracking, console):
        return TRACKING_REQUIRED_EXIT_CODE
    return CASE_FAILED_EXIT_CODE if compared.num_failed else 0


def _request(
    pair: PairOverrides, runs: Sequence[str], config_dirs: Sequence[Path]
) -> ProjectRequest:
    """What is asked of the pair, with those of the runs that measured its chip."""
    request = project_request(compose("project", pair.overrides, config_dirs), config_dirs)
    cluster = request.cluster
    if cluster.is_mixed:
        return request
    found = [
        name
        for name in runs
        if cluster.chip
        in ("this", this_chip(find_run(name, request.results_dir).environment, config_dirs).name)
    ]
    return replace(request, runs=tuple(found))


def _compared(
    pairs: Sequence[PairOverrides],
    made: dict[PairOverrides, Projected],
    folders: dict[PairOverrides, RunFolder],
    reasons: dict[PairOverrides, ChipscaleError],
) -> SideBySide:
    """The rows of all pairs, each against the best of its model."""
    drawn = {pair: one.drawn_step() for pair, one in made.items()}
    best = {
        model: max(
            (pair for pair in made if pair.model == model),
            key=lambda pair: useful(made[pair].projection).value,
            default=None,
        )
        for model in {pair.model for pair in pairs}
    }
    rows = []
    for pair in pairs:
        first = best[pair.model]
        if pair not in made or first is None:
            row = Pair(model=pair.model, cluster=pair.cluster, reason=str(reasons[pair]))
        else:
            row = Pair(
                model=pair.model,
                cluster=pair.cluster,
                folder=folders[pair].path.name,
                outcome=_outcome(made[pair], drawn[pair], made[first].projection, drawn[first]),
            )
        rows.append(row)
    return SideBySide(pairs=tuple(rows))


def _outcome(made: Projected, drawn: DrawnStep, best: Projection, best_drawn: DrawnStep) -> Outcome:
    """The numbers of the projection that are compared."""
    projection, request = made.projection, made.request
    point, search = projection.headline, projection.search
    energy, calibration = point.energy, shipped_calibration()
    chips = [made.chip] if made.chip is not None else list(request.island_chips)
    return Outcome(
        chip=projection.chip,
        num_chips=point.num_chips,
        plan=point.plan.label,
        held_back_by=search.largest_part if search is not None else "",
        tokens_per_second=point.tokens_per_second,
        mfu=projection.mfu,
        goodput=point.goodput,
        useful_tokens_per_second=useful(projection),
        site_w=None if energy is None else energy.site_w,
        joules_per_token=None if energy is None else energy.joules_per_token,
        currency="" if energy is None else energy.currency,
        cost_per_million_tokens=None if energy is None else energy.cost_per_million_tokens,
        price_basis=_price_basis(request.cluster),
        batch_share=None if point.batch is None else point.batch.share,
        source_share=projection.source_share,
        uncalibrated=tuple(
            dict.fromkeys(chip.name for chip in chips if not calibration.knows(chip.name))
        ),
        is_software_calibrated=all(
            calibration.ran_on(projection.software, chip.name) for chip in chips
        ),
        of_best=throughput_ratio(projection, drawn, best, best_drawn),
        has_common_draws=drawn.is_by_cause and best_drawn.is_by_cause,
    )


def _price_basis(cluster: ClusterSpec) -> str:
    """How the price of the cluster is made up; empty where it has none."""
    if cluster.is_mixed:
        each = dict.fromkeys(_price_basis(island) for island in cluster.islands)
        return "; ".join(text for text in each if text)
    price = cluster.price
    if price is None:
        return ""
    if price.per_chip_hour is not None:
        return f"rent of {price.currency} {price.per_chip_hour:g} per chip and hour"
    return f"purchase at {price.currency} {price.purchase_per_chip:,.0f} per chip and electricity"
