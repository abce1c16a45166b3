"""`chipscale list WHAT`: what there is to choose from."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.cli.main import LISTABLE
from harness.config.specs import list_names, load_chip, load_cluster, load_data, load_model
from harness.device.plugins import plugins
from harness.errors import ConfigError, RecordError, did_you_mean
from harness.fleet import SWEEP_TAG
from harness.report.rows import percent_text
from harness.run import RUNS
from harness.store.folder import run_folders
from harness.units import GIBI, GIGA, TERA, significant
from harness.wall_time import wall_time_of
from kernels import registry

NOT_KNOWN = "n/a"
SWEEP_COLUMN = 3
"""Of the table of runs."""
Rows = list[tuple[str, ...]]


def _number(value: float | None, scale: float) -> str:
    return NOT_KNOWN if value is None else significant(value / scale)


def _models(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for name in list_names("model", folders):
        model = load_model(name, folders)
        rows.append(
            (
                name,
                model.title,
                f"{significant(model.num_parameters / GIGA)} B",
                str(model.num_layers),
                str(model.hidden),
            )
        )
    return ("model", "title", "parameters", "layers", "hidden"), rows


def _chips(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for name in list_names("chip", folders):
        chip = load_chip(name, folders)
        rows.append(
            (
                name,
                chip.vendor,
                _number(chip.peak("bf16"), TERA),
                _number(chip.achievable("bf16"), TERA),
                _number(chip.memory_bytes, GIBI),
                _number(chip.memory_bandwidth_bytes_per_s, GIGA),
                _number(chip.power_w, 1),
            )
        )
    return (
        "chip",
        "vendor",
        "bf16 TFLOP/s dense",
        "achieved, published",
        "memory GiB",
        "GB/s",
        "W",
    ), rows


def _clusters(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for name in list_names("cluster", folders):
        cluster = load_cluster(name, folders)
        tiers = " | ".join(f"{tier.name} {tier.chips:,}" for tier in cluster.tiers)
        rows.append((name, cluster.chip, f"{cluster.num_chips:,}", tiers))
    return ("cluster", "chip", "chips", "tiers"), rows


def _ops(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    for name in registry.names():
        op = registry.outline(name)
        variants = f"; variants {', '.join(op.variants)}" if op.variants != ("",) else ""
        rows.append(
            (
                name,
                f"{op.formula}\n"
                f"axes {' '.join(op.axes)}; {', '.join(op.modes)}; {', '.join(op.dtypes)}{variants}"
                f"\n{op.counted}\n",
            )
        )
    return ("op", "formula; what a problem of it has; its cost"), rows


def _runs_of(results_dir: Path) -> tuple[tuple[str, ...], Rows]:
    rows: Rows = []
    folders = run_folders(results_dir / RUNS)
    if not folders:
        raise RecordError(f"{results_dir / RUNS}: no runs there yet. `chipscale run` makes one.")
    for folder in folders:
        try:
            info, found = folder.info, folder.read_records()
        except RecordError as error:
            # One run that cannot be read must not hide the others.
            rows.append((folder.path.name, "", "", "", f"unreadable: {error}"))
            continue
        state = "ended" if info.ended_at else "stopped"
        records = f"{state}, {len(found.records)}/{info.num_cases} records"
        if found.damaged:
            records += f", {len(found.damaged)} damaged"
        wall_time = wall_time_of(found.records)
        if wall_time is not None:
            records += f", {percent_text(wall_time.measured_share)} measuring"
        sweep = dict(info.tags).get(SWEEP_TAG, "")
        rows.append((info.run_id, info.suite, info.chip or info.device, sweep, records))
    header: tuple[str, ...] = (
        *("run", "suite", "chip", "sweep"),
        "state; `chipscale run resume=RUN` goes on",
    )
    if not any(row[SWEEP_COLUMN] for row in rows):
        # A column that is empty takes room that a terminal does not have.
        header, rows = _without(header), [_without(row) for row in rows]
    return header, rows


def _without(row: tuple[str, ...]) -> tuple[str, ...]:
    return row[:SWEEP_COLUMN] + row[SWEEP_COLUMN + 1 :]


def _described(group: str) -> Callable[[Sequence[Path]], tuple[tuple[str, ...], Rows]]:
    def table(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
        rows: Rows = []
        for name in list_names(group, folders):
            data = load_data(group, name, folders)
            told = (
                data.get("description")
                or data.get("source")
                or ", ".join(
                    f"{key}={value}" for key, value in data.items() if not isinstance(value, dict)
                )
            )
            rows.append((name, str(told)))
        return (group, "what it is"), rows

    return table


def _devices(folders: Sequence[Path]) -> tuple[tuple[str, ...], Rows]:
    """The files of the group, and behind them the back-ends of other packages."""
    header, rows = _described("device")(folders)
    known = {row[0] for row in rows}
    for plugin in plugins():
        if plugin.is_reserved:
            continue
        told = f"a back-end of {plugin.package}"
        if plugin.name in known:
            rows = [(name, told if name == plugin.name else text) for name, text in rows]
        else:
            rows.append((plugin.name, told))
    return header, rows


TABLES = {
    "models": _models,
    "chips": _chips,
    "clusters": _clusters,
    "ops": _ops,
    "suites": _described("suite"),
    "devices": _devices,
    "measures": _described("measure"),
    "parallels": _described("parallel"),
    "servings": _described("serving"),
}


def main(options: argparse.Namespace) -> int:
    """Print the table asked for."""
    what = str(options.what)
    wanted = what if what in LISTABLE else f"{what}s"
    if wanted == "runs":
        header, rows = _runs_of(options.results_dir.resolve())
    elif wanted in TABLES:
        header, rows = TABLES[wanted](options.config_dir)
    else:
        raise ConfigError(
            f"list: nothing called '{what}'. {did_you_mean(what, LISTABLE)}"
            f"There are {', '.join(LISTABLE)}."
        )
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(header):
        table.add_column(name, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
    return 0
