"""What is written to disk comes back the same, and what does not fit is refused with its place."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import Case
from harness.codec import from_json, to_json
from harness.device.base import DeviceState
from harness.errors import RecordError
from harness.measure.correctness import imagined
from harness.record import Correctness, Measurement, OutputError, Record, Status
from kernels.op import Cost, Mode, Tolerance, problem

FLOATS = st.floats(allow_nan=False)
TIMES = st.floats(min_value=0, allow_infinity=False)
TOLERANCE = Tolerance(dtype="fp32", relative_error=0.1, max_error=1.0, row_error=0.2)

CASE = Case(problem=problem("gemm", "bf16", Mode.DGRAD, M=3, N=5, K=7), impl="torch")
RECORD = Record(run_id="r", case=CASE, status=Status.OK)


@st.composite
def records(draw: st.DrawFn) -> Record:
    state = DeviceState(clock_hz=draw(st.none() | TIMES), throttle_reasons=("hot",))
    return Record(
        run_id=draw(st.text()),
        case=Case(
            problem=problem("copy", "fp32", N=draw(st.integers(1, 2**40))),
            impl="triton",
            roles=tuple(draw(st.lists(st.text(max_size=5)))),
        ),
        status=draw(st.sampled_from(Status)),
        reason=draw(st.text()),
        cost=Cost(flops=0, bytes_read=draw(st.integers(0)), bytes_written=4),
        correctness=Correctness(
            outputs=tuple(
                OutputError(
                    relative_error=draw(FLOATS),
                    max_error=draw(FLOATS),
                    row_error=draw(FLOATS),
                    tolerance=TOLERANCE,
                    mismatch=draw(st.text(max_size=5)),
                )
                for _ in range(draw(st.integers(0, 2)))
            )
        ),
        measurement=Measurement(
            samples_s=tuple(draw(st.lists(TIMES, min_size=1))),
            timer="host_clock",
            timer_resolution_s=1e-9,
            cache="cold",
            flush_bytes=3,
            num_warmup=2,
            warmup_s=draw(TIMES),
            prepare_s=0.0,
            stop_reason="enough",
            peak_memory_bytes=draw(st.none() | st.integers(0)),
            state_before=state,
            state_after=state,
        ),
    )


@given(records())
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    line = to_json(record)
    assert "\n" not in line
    assert from_json(Record, line) == record


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_has_not_are_still_standard_json(value: float) -> None:
    correctness = imagined((TOLERANCE,), error=value)
    line = to_json(replace(RECORD, correctness=correctness))
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not standard JSON"))
    back = from_json(Record, line).correctness
    assert back is not None
    assert repr(back.outputs[0].relative_error) == repr(value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "fine"}, "record.status: 'fine' is not one of ok, unsupported"),
        ({"color": 1}, "record: unknown key 'color'"),
        ({"run_id": 3}, "record.run_id: expected str, found 3"),
        ({"case": None}, "record.case: expected an object"),
        ({"cost": {"flops": True, "bytes_read": 1, "bytes_written": 1}}, "cost.flops"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(
    change: dict[str, object], words: str
) -> None:
    data = json.loads(to_json(RECORD)) | change
    with pytest.raises(RecordError, match=words.replace("[", r"\[")):
        from_json(Record, json.dumps(data))


def test_a_missing_field_without_a_default_is_named() -> None:
    data = json.loads(to_json(RECORD))
    del data["case"]["impl"]
    with pytest.raises(RecordError, match=r"record\.case: key 'impl' is missing"):
        from_json(Record, json.dumps(data))


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(RecordError, match="not JSON"):
        from_json(Record, '{"run_id": ')
