"""A run's reports, written from its folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.cli.run_roofs import settled_roofs
from harness.comparison import ChipComparison
from harness.config.specs import match_chip
from harness.report import html, markdown
from harness.store.disk import write_atomically
from harness.store.folder import REPORT_HTML, REPORT_MARKDOWN, RunFolder


def render_reports(
    folder: RunFolder,
    config_dirs: Sequence[Path] = (),
    comparison: ChipComparison | None = None,
) -> None:
    """Write `report.html` and `report.md` into the run's folder; a comparison is in the page."""
    environment, info = folder.environment, folder.info
    environment = replace(environment, warnings=(*environment.warnings, *folder.warnings()))
    records, projection = folder.records(), folder.projection
    roofs = settled_roofs(folder, config_dirs)
    write_atomically(
        folder.path / REPORT_HTML,
        html.render(
            records=records,
            info=info,
            environment=environment,
            projection=projection,
            chip=match_chip(environment.device.name, config_dirs),
            proof=folder.proof,
            spread=folder.spread,
            roofs=roofs,
            comparison=comparison,
        ),
    )
    write_atomically(
        folder.path / REPORT_MARKDOWN,
        markdown.render(
            records=records,
            info=info,
            environment=environment,
            projection=projection,
            proof=folder.proof,
            spread=folder.spread,
            roofs=roofs,
        ),
    )
