"""`chipscale gate calibrate`: how far does this machine differ from itself?"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.arms.calibrating import calibration
from harness.arms.job import make_folder
from harness.arms.measuring import opened_gate
from harness.arms.source import WORKING_TREE
from harness.cli.gate_order import gate_order
from harness.cli.gate_progress import GateProgress
from harness.config.gate_request import compose_gate, with_quick
from harness.errors import INTERRUPTED_EXIT_CODE, ConfigError
from harness.gate.floors import Floors, choose, floors_text, read_floors
from harness.gate.tolerance import FLOOR_DEVIATIONS
from harness.store.disk import write_atomically
from harness.units import percent


def calibrate(words: Sequence[str], options: argparse.Namespace) -> int:
    """Gate the running code against itself, and keep the floors after every suite.

    Raises:
        ConfigError: when a base or a head is named, for both are this tree.
    """
    overrides = with_quick(words) if options.quick else list(words)
    for one in overrides:
        if one.partition("=")[0] in ("base", "head", "resume"):
            raise ConfigError(f"{one}: `chipscale gate calibrate` holds this tree against itself.")
    overrides = [f"base={WORKING_TREE}", *overrides]
    config = compose_gate(overrides, options.config_dir)
    request, order = gate_order(config, overrides, options.config_dir, options.case, None)
    console = Console(highlight=False)
    known = read_floors(request.floors_file)  # A damaged file is told of before measuring.
    make_folder(order.folder)
    console.print(
        f"chipscale: calibration {order.gate_id}, {request.calibration_runs} A/A gates of "
        f"{order.policy.rounds} rounds",
        markup=False,
        soft_wrap=True,
    )
    num_kept = 0
    try:
        with GateProgress(console, order.policy.rounds) as progress, opened_gate(order) as gate:
            for floors in calibration(gate, request.calibration_runs, progress, progress.on_suite):
                known = read_floors(request.floors_file).with_floors(floors)
                make_folder(request.floors_file.parent)
                write_atomically(request.floors_file, floors_text(known))
                num_kept += 1
    except KeyboardInterrupt:
        console.print(
            f"Stopped. The floors of {num_kept} A/A gates are kept in {request.floors_file}; the "
            "same command adds to them.",
            markup=False,
            soft_wrap=True,
        )
        return INTERRUPTED_EXIT_CODE
    found, _ = choose(known, floors.fingerprint, floors.num_rounds)
    assert found is not None, "they were just written"
    console.print(_table(found))
    _say(found, request.floors_file, console)
    return 0


def _table(floors: Floors) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("case", overflow="fold")
    table.add_column("A/A estimates", justify="right")
    table.add_column("no change below", justify="right")
    for one in sorted(floors.cases, key=lambda one: -one.deviation):
        floor = percent(FLOOR_DEVIATIONS * one.deviation) if one.is_enough else "too few yet"
        table.add_row(one.case_id.replace("[", r"\["), str(len(one.estimates)), floor)
    return table


def _say(floors: Floors, path: Path, console: Console) -> None:
    num_few = sum(not one.is_enough for one in floors.cases)
    few = "1 case needs" if num_few == 1 else f"{num_few} cases need"
    more = f" {few} more A/A gates to be used: repeat this." if num_few else ""
    console.print(
        f"Floors of {floors.fingerprint} are in {path}.{more}", markup=False, soft_wrap=True
    )
