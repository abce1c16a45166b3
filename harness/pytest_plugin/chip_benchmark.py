"""ChipBenchmark: what a test calls to verify, measure, show and judge one thing."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from harness.cases import Case
from harness.errors import ChipscaleError
from harness.measure.policy import Cache, MeasurePolicy
from harness.pytest_plugin.chip_session import ChipSession, Identity
from harness.pytest_plugin.engine import Engine
from harness.pytest_plugin.extra_info import of_measurement, of_record
from harness.pytest_plugin.judging import judge
from harness.pytest_plugin.replay import Benchmark, VirtualClock, replay
from harness.record import Measurement, Record, Status
from harness.results import result_row
from kernels.op import Problem

if TYPE_CHECKING:
    from typing import NoReturn

NOT_GIVEN = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What `chip_benchmark(...)` returns."""

    samples_s: tuple[float, ...]
    """What statistics are of; empty where nothing is timed, as under --benchmark-disable."""
    result: object = None
    """Of a function: what its checked call returned."""
    record: Record | None = None
    """Of a case: everything about it."""

    @property
    def median_s(self) -> float | None:
        """The time; None where nothing is timed."""
        return statistics.median(self.samples_s) if self.samples_s else None


class ChipBenchmark:
    """The fixture's value; measures one thing in each test."""

    def __init__(
        self, item: pytest.Item, benchmark: Benchmark, clock: VirtualClock, session: ChipSession
    ) -> None:
        self._item = item
        self._benchmark = benchmark
        self._clock = clock
        self._session = session
        self.is_used = False
        self.is_timed = False
        """pytest-benchmark was given samples."""

    @property
    def device(self) -> torch.device:
        """Where a function that is measured has to have its tensors."""
        return self._engine.device.torch_device

    def __call__(
        self,
        what: Case | Problem | Callable[..., object],
        *,
        impl: str | None = None,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        setup: Callable[[], object] | None = None,
        check: Callable[[Any], object] | None = None,
        expected: object = NOT_GIVEN,
        cache: str = "",
    ) -> Measured:
        """Verify it, measure it, show it in pytest-benchmark's table, and hold it to the baseline.

        Args:
            what: a case of an op, a problem together with `impl`, or a function.
            impl: `torch`, `compile` or `triton`, for a problem.
            args: of the function.
            kwargs: of the function.
            setup: called before every run of the function, outside the timed part.
            check: is given the function's result before anything is timed and after the last
                timed run; returns False, or raises AssertionError, for a wrong one.
            expected: the function's right result; tensors are compared by
                `torch.testing.assert_close`.
            cache: `hot` or `cold`, where it is not to be that of the session.

        The test fails for a wrong result, an error, or a confirmed regression, and is skipped where
        an implementation cannot run on the device.
        """
        self._use_once()
        if isinstance(what, Problem):
            if impl is None:
                self._fail("a problem needs impl='torch', 'compile' or 'triton'")
            what = Case(problem=what, impl=impl)
        elif impl is not None:
            self._fail("impl= belongs to a problem, and not to a case or a function")
        if cache and cache not in list(Cache):
            self._fail(f"cache={cache!r} is neither 'hot' nor 'cold'")
        function_only = (bool(args), bool(kwargs), setup, check, expected is not NOT_GIVEN)
        if isinstance(what, Case):
            if any(function_only):
                self._fail(
                    "args, kwargs, setup, check and expected belong to a function; a case of an op "
                    "has its inputs and its fp64 reference"
                )
            return self._case(replace(what, cache=cache) if cache else what)
        if not callable(what):
            self._fail(f"{what!r} is no case, no problem and no function")
        function, known = what, dict(kwargs or {})
        return self._function(
            lambda: function(*args, **known),
            setup or (lambda: None),
            lambda result: _fault(result, check, expected),
            cache,
        )

    def _case(self, case: Case) -> Measured:
        record = self._measure_case(case)
        if record.status is Status.UNSUPPORTED:
            self._skip(record.reason)
        if record.status is not Status.OK:
            self._fail(f"{case.id}: {record.status}. {record.reason}")
        if self._session.is_check:
            self._end_checked()
            return Measured(samples_s=(), record=record)
        measurement = record.measurement
        assert measurement is not None
        roofs = self._session.roofs
        row = result_row(record, roofs)
        if row.is_rejected:
            self._fail(f"{case.id}: rejected. {row.reason}")
        if self._benchmark.group is None:
            self._benchmark.group = case.problem.id
        self._benchmark.extra_info |= of_record(record, row, roofs)
        self._session.records[self._item.nodeid] = record
        self._show(
            measurement,
            Identity(case_id=case.id, protocol_hash=record.protocol_hash),
            lambda: self._median_s(self._measure_case(case).measurement),
        )
        return Measured(samples_s=measurement.steady_samples_s, record=record)

    def _function(
        self,
        function: Callable[[], object],
        setup: Callable[[], object],
        find_fault: Callable[[object], str],
        cache: str,
    ) -> Measured:
        engine = self._engine
        if engine.device.info.torch_device_type == "fake":
            self._skip(
                "The fake chip knows what ops cost, and cannot run a function. Use "
                "--chip-device=cpu."
            )
        policy = engine.policy.with_cache(cache)

        def measured() -> tuple[object, Measurement | None]:
            outcome = engine.measure_function(
                function,
                setup=setup,
                find_fault=find_fault,
                is_check=self._session.is_check,
                policy=policy,
            )
            if outcome.fault:
                self._fail(f"wrong result, so it is not timed. {outcome.fault}")
            return outcome.result, outcome.measurement

        try:
            result, measurement = measured()
        except ChipscaleError as error:
            self._fail(str(error))
        if measurement is None:
            self._end_checked()
            return Measured(samples_s=(), result=result)
        self._show(
            measurement,
            Identity(case_id="", protocol_hash=self._function_protocol(policy)),
            lambda: self._median_s(measured()[1]),
            result,
        )
        return Measured(samples_s=measurement.steady_samples_s, result=result)

    def _show(
        self,
        measurement: Measurement,
        identity: Identity,
        remeasure: Callable[[], float],
        result: object = None,
    ) -> None:
        """Replay the samples, and judge them; a process that confirms leaves its median instead."""
        session = self._session
        median_s = self._median_s(measurement)
        if session.options.fresh_file is not None:
            session.options.fresh_file.write_text(
                json.dumps({"median_s": median_s}), encoding="ascii"
            )
            return
        self._benchmark.extra_info |= of_measurement(measurement, self._engine.environment)
        self.is_timed = True
        replay(self._benchmark, self._clock, measurement.steady_samples_s, result)
        session.identities[self._item.nodeid] = identity
        if session.baseline is None:
            return
        verdict = judge(
            self._item, session, session.baseline, identity, measurement, median_s, remeasure
        )
        session.verdicts.append(verdict)
        self._item.user_properties.append(("chip_verdict", str(verdict.state)))
        if verdict.is_failure:
            pytest.fail(verdict.reason, pytrace=False)

    @property
    def _engine(self) -> Engine:
        try:
            return self._session.engine
        except ChipscaleError as error:
            self._fail(str(error))

    def _measure_case(self, case: Case) -> Record:
        try:
            return self._engine.measure_case(case)
        except KeyError as error:
            self._fail(f"{case.id}: {error.args[0] if error.args else error}")
        except ChipscaleError as error:
            self._fail(str(error))

    def _function_protocol(self, policy: MeasurePolicy) -> str:
        return self._engine.function_protocol(policy)

    @staticmethod
    def _median_s(measurement: Measurement | None) -> float:
        assert measurement is not None, "what was measured once is measured again"
        return statistics.median(measurement.steady_samples_s)

    def _use_once(self) -> None:
        if self.is_used:
            pytest.fail(
                "chip_benchmark was called twice in this test, and a test has one time. Write a "
                "test for each, or parametrize this one.",
                pytrace=False,
            )
        self.is_used = True

    def _end_checked(self) -> None:
        self._item.user_properties.append(("chip_benchmark", "checked"))

    def _fail(self, reason: str) -> "NoReturn":
        # From None: where an error was caught, its words are the reason.
        raise pytest.fail.Exception(reason, pytrace=False) from None

    def _skip(self, reason: str) -> "NoReturn":
        pytest.skip(reason)


def _fault(result: object, check: Callable[[Any], object] | None, expected: object) -> str:
    """What is wrong with a function's result, in a sentence; empty for a right one."""
    if check is not None:
        try:
            answer = check(result)
        except AssertionError as error:
            return f"check: {error or 'an assertion failed'}"
        if answer is not None and not bool(answer):
            return f"check returned {answer!r}."
    if expected is NOT_GIVEN:
        return ""
    if _holds_tensors(expected):
        try:
            torch.testing.assert_close(result, expected)
        except (AssertionError, TypeError, ValueError) as error:
            return " ".join(str(error).split())
        return ""
    return "" if result == expected else f"{result!r} is not the expected {expected!r}."


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_tensors(one) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_tensors(one) for one in value)
    return isinstance(value, torch.Tensor)
