"""The doctor's section on timers: what each device's timer, launch and cache flush are worth."""

from collections.abc import Sequence

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.device.base import Device
from harness.measure.policy import MeasurePolicy
from harness.measure.proof import prove
from harness.proof import Proof
from harness.report.method import COLUMNS, proof_rows
from harness.units import duration


def timers_view(devices: Sequence[Device]) -> RenderableType:
    """A table for each device, by the policy that a run has by default."""
    parts: list[RenderableType] = []
    for device in devices:
        parts += [Text(""), *_of_device(device, _proof_of(device))]
    return Group(*parts)


def _proof_of(device: Device) -> Proof:
    # Several were opened, and torch works on the one that was last.
    if device.torch_device.type != "cpu":
        torch.accelerator.set_device_index(device.info.index)
    return prove(device, MeasurePolicy())


def _of_device(device: Device, proof: Proof) -> list[RenderableType]:
    info = device.info
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(COLUMNS[0], no_wrap=True)
    table.add_column(COLUMNS[1], overflow="fold")
    table.add_column(COLUMNS[2], overflow="fold", style="yellow")
    for row in proof_rows(proof):
        table.add_row(*(Text(cell) for cell in row))
    return [
        Text(
            f"Timer, launch and cache of {info.torch_device_type}:{info.index} {info.name}, proven "
            f"in {duration(proof.seconds)}; nothing is subtracted from samples",
            style="bold",
        ),
        table,
    ]
