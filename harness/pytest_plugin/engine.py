"""The measuring engine in a process of pytest: one device, opened when the first test needs it."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from harness.cases import Case
from harness.device.host_memory import keep_from_system
from harness.device.open import open_device
from harness.device.request import DeviceRequest
from harness.environment import num_usable_cores, processor_name, read_environment
from harness.judgement import proof_warnings
from harness.measure.function import function_subject
from harness.measure.loop import Entrant, measure
from harness.measure.policy import MeasurePolicy
from harness.measure.proof import prove
from harness.measure.protocol import protocol_hash, rule_parts
from harness.proof import Proof
from harness.record import Measurement, Record
from harness.store.folder import RunInfo
from harness.worker.child import CaseRunner
from harness.worker.job import Job
from harness.worker.lock import DEVICE_WAIT_S, lock_device, this_process

CHECK = {
    "num_input_sets": 1,
    "relative_half_width": 1.0,
    "min_samples": 1,
    "max_samples": 1,
    "timeout_s": 0.01,
    "min_samples_at_timeout": 1,
    "warmup_window": 1,
    "warmup_tolerance": 100.0,
    "warmup_timeout_s": 0.01,
    "throttle_retries": 0,
    "energy_s": 0.0,
    "sustained_timeout_s": 0.0,
}
"""Rules under which a case runs a few times and says whether it is right; as measure=check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionOutcome:
    """What became of a function."""

    result: object
    """What the checked call returned."""
    fault: str = ""
    """What is wrong with a result, in a sentence; there is no measurement then."""
    measurement: Measurement | None = None


class Engine:
    """Measures cases and functions on one device, under one policy.

    Raises:
        ConfigError: when the device asked for is not there.
    """

    def __init__(
        self,
        request: DeviceRequest,
        policy: MeasurePolicy,
        *,
        is_check: bool,
        is_proven: bool,
        on_notice: Callable[[str], None],
    ) -> None:
        """Open the device.

        Args:
            request: which device.
            policy: how it is measured.
            is_check: run each case a few times to see that it is right, and time nothing.
            is_proven: show first what its timer is worth.
            on_notice: is told what a reader of the numbers should know, a sentence each.
        """
        self.policy = replace(policy, **CHECK) if is_check else policy  # type: ignore[arg-type]
        self._request = request
        self._on_notice = on_notice
        self.device = open_device(request, processor_name(), num_usable_cores())
        if self.device.info.torch_device_type == "cpu":
            keep_from_system()
        self.environment = read_environment(self.device.info, self.device.state())
        self.proof: Proof | None = None
        if is_proven and not is_check:
            with self._alone():
                self.proof = prove(self.device, policy)
            self.device.release_memory()
            for sentence in (*self.environment.warnings, *proof_warnings(self.proof)):
                on_notice(sentence)

    @property
    def device_name(self) -> str:
        """As it was asked for."""
        return self._request.name

    def measure_case(self, case: Case) -> Record:
        """The case's record: right or not, and how fast."""
        resolution_s = 0.0 if self.proof is None else self.proof.resolution_s
        runner = CaseRunner(
            self._job(case), self.device, lambda event: None, lambda index: None, resolution_s
        )
        with self._alone(), warnings.catch_warnings():
            # Those of torch's compiler, which a worker leaves in its log: under a filter that makes
            # them errors, as many projects have it, nothing could be compiled.
            warnings.simplefilter("ignore")
            (record,) = runner.run([0])
        del runner
        self.device.release_memory()
        return replace(record, ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"))

    def measure_function(
        self,
        function: Callable[[], object],
        *,
        setup: Callable[[], object],
        find_fault: Callable[[object], str],
        is_check: bool,
        policy: MeasurePolicy,
    ) -> FunctionOutcome:
        """Check the function, time it, and check what its last timed run returned.

        Raises whatever the function raises.
        """
        results: list[object] = []

        def judged(result: object) -> str:
            results.append(result)
            return find_fault(result)

        subject = function_subject(function, setup=setup, find_fault=judged)
        with self._alone():
            found = subject.check()
            self.device.synchronize()
            result = results.pop()
            if is_check or not found.is_right:
                return FunctionOutcome(result=result, fault=found.explanation)
            (outcome,) = measure([Entrant(subject=subject)], self.device, policy)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.measurement is not None
        assert outcome.last_outputs is not None
        last = subject.recheck(outcome.last_set, outcome.last_outputs)
        if not last.is_right:
            return FunctionOutcome(result=result, fault=last.explanation)
        return FunctionOutcome(result=result, measurement=outcome.measurement)

    def function_protocol(self, policy: MeasurePolicy) -> str:
        """Equal for functions that were measured by the same rules."""
        rules = replace(policy, num_input_sets=1)
        return protocol_hash(rule_parts(rules, self.device.timer.kind))

    def _job(self, case: Case) -> Job:
        """One case as a worker is given it; nothing of it is written anywhere."""
        run = RunInfo(
            run_id="pytest",
            suite="pytest",
            model="",
            device=self._request.name,
            chip="",
            num_cases=1,
            started_at="",
        )
        return Job(run=run, device=self._request, policy=self.policy, cases=(case,))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """With the device locked against other runs, and without tracing, which would be timed."""
        lock = lock_device(
            self.device.info,
            self._request.index,
            this_process("of pytest"),
            DEVICE_WAIT_S,
            self._on_notice,
        )
        tracer, profiler = sys.gettrace(), sys.getprofile()
        sys.settrace(None)
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.settrace(tracer)
            sys.setprofile(profiler)
            if lock is not None:
                lock.close()
