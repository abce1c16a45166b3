import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from harness.device.base import DeviceState
from harness.report import case_samples
from harness.report.case_samples import samples_json, state_text
from harness.results import result_rows
from tests.harness.sample_run import many_records, sample_records


def entries(records: tuple) -> list:
    return json.loads(samples_json(result_rows(records), records))


def test_every_row_has_an_entry_and_those_without_samples_have_their_reason() -> None:
    records = sample_records()
    found = entries(records)
    assert [one["id"] for one in found] == [record.case.id for record in records]
    assert "samples" not in found[-1]
    assert "The worker died with signal 11." in found[-1]["summary"]


def test_samples_come_back_as_they_were_measured() -> None:
    records = many_records(1)
    (found,) = entries(records)
    samples = np.frombuffer(base64.b64decode(found["samples"]), dtype="<f4")
    assert records[0].measurement is not None
    np.testing.assert_allclose(samples, records[0].measurement.samples_s, rtol=1e-6)
    assert (found["unit"], found["every"]) == ("us", 1)


def test_a_page_with_too_many_samples_draws_one_in_several_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(case_samples, "MAX_SAMPLES", 400)
    records = many_records(4, num_samples=250)
    for one in entries(records):
        assert one["every"] == 3
        assert len(base64.b64decode(one["samples"])) == 4 * 84
        assert "250 samples" in one["summary"]
        assert "One in 3 is drawn; records.jsonl has all." in one["summary"]


def test_equal_samples_have_no_outliers_beyond_them() -> None:
    (record,) = many_records(1)
    assert record.measurement is not None
    same = replace(record, measurement=replace(record.measurement, samples_s=(1e-3,) * 20))
    (found,) = entries((same,))
    assert found["fence"] == [1e-3, 1e-3]


def test_a_state_tells_what_the_device_tells() -> None:
    state = DeviceState(clock_hz=1.98e9, temperature_c=61.0, throttle_reasons=("thermal",))
    assert state_text(state) == "1.98 GHz, 61.0 C, throttled (thermal)"
    assert state_text(DeviceState()) == ""
