"""A/A gates of one tree: what this machine takes for a change though there is none."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from harness.arms.hold import held
from harness.arms.measuring import OpenGate, prepared
from harness.arms.turns import GateWatcher, Turns
from harness.errors import NothingMeasured
from harness.gate.floors import Floors, floors_from


def calibration(
    gate: OpenGate, num_suites: int, watcher: GateWatcher, on_suite: Callable[[int], None]
) -> Iterator[Floors]:
    """The floors of this machine, one suite of rounds after the other; each is of that suite.

    Args:
        gate: with the same code in both arms.
        num_suites: how many.
        watcher: is told what happens.
        on_suite: is told that the suite of that number begins.

    Raises:
        NothingMeasured: when no case has a time in every round of a suite.
        ChipscaleError: as `measure_gate`.
    """
    order = gate.order
    ready = prepared(gate, watcher.on_notice)
    turns = Turns(base=ready.base, head=ready.head, watcher=watcher)
    num_rounds = order.policy.rounds
    with held(ready.environment, order.job.device.index, order.gate_id, watcher.on_notice):
        for suite in range(num_suites):
            on_suite(suite + 1)
            numbers = range(suite * num_rounds + 1, (suite + 1) * num_rounds + 1)
            rounds = tuple(turns.rounds(numbers, ready.case_ids))
            floors = floors_from(
                [rounds],
                ready.fingerprint,
                order.chip_name(ready.environment),
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
            if len(rounds) < num_rounds or not floors.cases:
                raise NothingMeasured(
                    f"No case has a time in all {num_rounds} rounds; {order.folder} has what its "
                    "processes said."
                )
            yield floors
