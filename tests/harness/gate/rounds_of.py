"""Rounds of an imaginary chip, from the medians that their processes are to have."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.cases import Case
from harness.device.base import DeviceState
from harness.gate.rounds import Round
from harness.measure.correctness import imagined
from harness.record import Measurement, Record, Status
from kernels.op import Tolerance, problem

RIGHT = imagined((Tolerance(dtype="bf16", relative_error=1.0, max_error=1.0, row_error=1.0),))
CASE = Case(problem=problem("copy", "bf16", N=1024), impl="torch")
COPY = CASE.id
PARTS = (("op", "copy"), ("sizes", "N=1024"), ("timer", "virtual_clock"))


def case_named(number: int) -> Case:
    return Case(problem=problem("copy", "bf16", N=number), impl="torch")


def record(median_s: float, case: Case = CASE, **measurement: Any) -> Record:
    """A right record whose three samples have that median."""
    values: dict[str, Any] = {
        "samples_s": (median_s * 0.99, median_s, median_s * 1.5),
        "timer": "virtual_clock",
        "timer_resolution_s": 1e-9,
        "cache": "cold",
        "flush_bytes": 0,
        "num_warmup": 1,
        "warmup_s": 0.1,
        "prepare_s": 0.1,
        "stop_reason": "enough",
        "peak_memory_bytes": None,
        "state_before": DeviceState(),
        "state_after": DeviceState(),
    }
    return Record(
        run_id="run",
        case=case,
        status=Status.OK,
        correctness=RIGHT,
        measurement=Measurement(**(values | measurement)),
        protocol_hash="abc",
        protocol_parts=PARTS,
    )


def failed(status: Status, reason: str = "no luck", case: Case = CASE) -> Record:
    return Record(run_id="run", case=case, status=status, reason=reason)


def rounds(base_s: Sequence[float], head_s: Sequence[float], case: Case = CASE) -> list[Round]:
    """One case, its medians in seconds round by round."""
    return [
        Round(base=(record(base, case),), head=(record(head, case),), base_first=number % 2 == 0)
        for number, (base, head) in enumerate(zip(base_s, head_s, strict=True))
    ]


def slower(share: float, count: int = 5, base_s: float = 1e-3, spread: float = 1e-3) -> list[Round]:
    """Rounds whose head takes longer by that share, with a little scatter between them."""
    scatter = [1 + spread * ((7 * number) % 5 - 2) for number in range(count)]
    return rounds([base_s] * count, [base_s * (1 + share) * one for one in scatter])


def suite(shares: Mapping[int, float], count: int = 5) -> list[Round]:
    """Rounds of many cases, each number with the share its head takes longer."""
    of_each = {
        number: rounds(
            [1e-3] * count,
            [1e-3 * (1 + share) * (1 + 5e-4 * (each % 3 - 1)) for each in range(count)],
            case_named(number),
        )
        for number, share in shares.items()
    }
    return [
        Round(
            base=tuple(one[each].base[0] for one in of_each.values()),
            head=tuple(one[each].head[0] for one in of_each.values()),
            base_first=each % 2 == 0,
        )
        for each in range(count)
    ]


def with_head(measured: Sequence[Round], number: int, head: Record | None) -> list[Round]:
    """The rounds with another record of the head, or none, in one of them."""
    changed = list(measured)
    changed[number] = replace(changed[number], head=() if head is None else (head,))
    return changed


def with_base(measured: Sequence[Round], number: int, base: Record | None) -> list[Round]:
    changed = list(measured)
    changed[number] = replace(changed[number], base=() if base is None else (base,))
    return changed
