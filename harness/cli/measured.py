"""The chip of a projection, with its measurements where runs are given."""

from collections.abc import Sequence
from pathlib import Path

from harness.config.this_chip import this_chip
from harness.device.chip import ChipSpec
from harness.errors import ConfigError
from harness.extrapolate.cluster import ClusterSpec
from harness.record import Record
from harness.results import accepted
from harness.roofline import Roofline
from harness.run import find_run


def measured(
    runs: Sequence[str],
    chip: ChipSpec | None,
    cluster: ClusterSpec,
    results_dir: Path,
    config_dirs: Sequence[Path],
) -> tuple[ChipSpec, tuple[Record, ...], Roofline | None, float | None, tuple[str, ...]]:
    """The chip, its measurements and roofs, the memory it said it has, and the runs' ids.

    Measurements are those that are not too fast to be true. With several runs their own roofs are
    taken together, since each may have found another part.

    Raises:
        ConfigError: when the runs are of another chip than the cluster, or none is given for a
            cluster of the chip measured.
    """
    folders = [find_run(name, results_dir) for name in runs]
    if not folders:
        if chip is None:
            raise ConfigError(
                f"runs: cluster {cluster.name} is made of the chip measured, so a run is "
                "needed. Set runs=[latest], or choose a cluster of a known chip: "
                "`chipscale list clusters`."
            )
        return chip, (), None, None, ()
    chips = [this_chip(folder.environment, config_dirs) for folder in folders]
    chip = chip or chips[0]
    for folder, found in zip(folders, chips, strict=True):
        if found.name != chip.name:
            raise ConfigError(
                f"runs: {folder.info.run_id} measured {found.name}, but cluster "
                f"{cluster.name} is made of {chip.name}. Leave the run out, or set "
                "cluster=this_100k for a cluster of the chip measured."
            )
    records = tuple(
        record for folder in folders for record in accepted(folder.records(), folder.roofs)
    )
    roofs = folders[0].roofs if len(folders) == 1 else None
    memory_bytes = folders[0].environment.device.memory_bytes
    return chip, records, roofs, memory_bytes, tuple(folder.info.run_id for folder in folders)
