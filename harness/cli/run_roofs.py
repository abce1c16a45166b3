"""The roofs of a run, found once and kept in its folder, so that its report stays what it is."""

from collections.abc import Sequence
from pathlib import Path

from harness.config.specs import match_chip
from harness.roof_source import roofs_for
from harness.roofline import Roofline, data_sheet_roofline
from harness.store.folder import ROOFS, RunFolder, run_folders


def settle_roofs(folder: RunFolder, config_dirs: Sequence[Path] = ()) -> Roofline:
    """Find the roofs that the run is held against and write them into its folder."""
    chip = match_chip(folder.environment.device.name, config_dirs)
    sheet = None if chip is None else data_sheet_roofline(chip)
    others = [other for other in run_folders(folder.path.parent) if other.path != folder.path]
    roofs = roofs_for(folder, others, sheet)
    folder.write(ROOFS, roofs)
    return roofs


def settled_roofs(folder: RunFolder, config_dirs: Sequence[Path] = ()) -> Roofline:
    """Those kept in the folder, or found now."""
    if (folder.path / ROOFS).exists():
        return folder.roofs
    return settle_roofs(folder, config_dirs)
