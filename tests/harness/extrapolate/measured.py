"""Records of an imaginary chip, made from a time per problem."""

from collections.abc import Callable, Iterable

from harness.cases import Case
from harness.device.base import DeviceState
from harness.record import Measurement, Record, Status
from kernels import registry
from kernels.op import Problem


def record(
    problem: Problem,
    seconds: float,
    impl: str = "torch",
    roles: tuple[str, ...] = (),
    status: Status = Status.OK,
) -> Record:
    measurement = Measurement(
        samples_s=tuple(seconds * (1 + 0.01 * step) for step in (-1, -0.5, 0, 0.5, 1, 0, 0)),
        timer="virtual_clock",
        timer_resolution_s=1e-9,
        cache="cold",
        flush_bytes=0,
        num_warmup=1,
        warmup_s=0.0,
        prepare_s=0.0,
        stop_reason="as many as wanted",
        peak_memory_bytes=None,
        state_before=DeviceState(),
        state_after=DeviceState(),
    )
    return Record(
        run_id="run",
        case=Case(problem=problem, impl=impl, roles=roles),
        status=status,
        cost=registry.cost(problem),
        measurement=measurement if status is Status.OK else None,
    )


def records(problems: Iterable[Problem], time: Callable[[Problem], float]) -> list[Record]:
    return [record(problem, time(problem)) for problem in problems]
