"""What of the protocol differs between two records, in words."""

from harness.record import Correctness, Record
from kernels.op import Tolerance


def protocol_difference(first: Record, second: Record) -> str:
    """Every part of the protocol that differs, as `cache: cold and hot`."""
    ours, theirs = dict(first.protocol_parts), dict(second.protocol_parts)
    if ours and theirs:
        names = [*ours, *(name for name in theirs if name not in ours)]
        found = [
            f"{name}: {ours.get(name, 'none')} and {theirs.get(name, 'none')}"
            for name in names
            if ours.get(name) != theirs.get(name)
        ]
        return ", ".join(found) or "the protocol hash alone"
    return _difference_of_older(first, second)


def _difference_of_older(first: Record, second: Record) -> str:
    """What a record shows where one of the two is of a version without the parts."""
    assert first.measurement is not None
    assert second.measurement is not None
    assert first.correctness is not None
    assert second.correctness is not None
    parts = {
        "timer": (first.measurement.timer, second.measurement.timer),
        "launch": (first.measurement.launch, second.measurement.launch),
        "cache": (first.measurement.cache, second.measurement.cache),
        "tolerance": (_tolerances(first.correctness), _tolerances(second.correctness)),
        "cost": (first.cost, second.cost),
    }
    found = [f"{name}: {a} and {b}" for name, (a, b) in parts.items() if a != b]
    return ", ".join(found) or "the op's definition, the seed or the stop rule"


def _tolerances(correctness: Correctness) -> tuple[Tolerance, ...]:
    return tuple(output.tolerance for output in correctness.outputs)
