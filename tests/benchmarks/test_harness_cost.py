"""What the harness itself costs: `make bench-self`. In `make test` each of these runs once."""

from pytest_benchmark.fixture import BenchmarkFixture

from harness.codec import from_json, to_json
from harness.config.build import run_request
from harness.config.compose import compose
from harness.device.fake import FakeDevice
from harness.device.request import FakeOptions
from harness.measure.loop import Entrant, measure
from harness.measure.policy import MeasurePolicy
from harness.measure.workbench import open_workbench
from harness.record import Record
from harness.results import result_rows
from harness.stats import median_interval
from kernels import registry
from kernels.op import problem
from tests.harness.sample_run import many_records


def test_composing_a_run(benchmark: BenchmarkFixture) -> None:
    request = benchmark(lambda: run_request(compose("run", ["suite=training"])))
    assert request.cases


def test_measuring_a_case_on_the_fake_chip(benchmark: BenchmarkFixture) -> None:
    device = FakeDevice(FakeOptions())
    one = problem("copy", "bf16", N=2**20)
    subject = open_workbench(registry.load("copy"), one, device, MeasurePolicy()).subject("torch")
    (outcome,) = benchmark(lambda: measure([Entrant(subject=subject)], device, MeasurePolicy()))
    assert len(outcome.measurement.samples_s) >= MeasurePolicy().min_samples


def test_the_interval_of_a_hundred_samples(benchmark: BenchmarkFixture) -> None:
    samples = [1.0 + 0.001 * (index * 37 % 100) for index in range(100)]
    low, high = benchmark(median_interval, samples)
    assert low < high


def test_writing_and_reading_a_record(benchmark: BenchmarkFixture) -> None:
    (record,) = many_records(1, num_samples=100)
    assert benchmark(lambda: from_json(Record, to_json(record))) == record


def test_the_rows_of_a_thousand_records(benchmark: BenchmarkFixture) -> None:
    records = many_records(1000)
    assert len(benchmark(result_rows, records)) == 1000
