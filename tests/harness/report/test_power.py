from dataclasses import replace

from harness.device.base import DeviceState
from harness.record import Energy, Record, Sustained, Window
from harness.report import html, markdown
from harness.report.power import HOST_BOUND, NOT_SETTLED, power_tables
from harness.results import result_rows
from tests.harness.sample_run import sample_records


def record_with(energy: Energy | None = None, sustained: Sustained | None = None) -> Record:
    record = sample_records()[0]
    assert record.measurement is not None
    measurement = replace(record.measurement, energy=energy, sustained=sustained)
    return replace(record, measurement=measurement)


ENERGY = Energy(joules_per_run=2.2, num_runs=500, seconds=1.6, mean_power_w=690.0)


def sustained_of(settled_after_s: float | None) -> Sustained:
    clocks_hz = (1.98e9, 1.62e9)
    windows = tuple(
        Window(num_samples=300, seconds=1.0, state=DeviceState(clock_hz=clock_hz))
        for clock_hz in clocks_hz
    )
    return Sustained(
        burst_s=3e-3, sustained_s=4e-3, settled_after_s=settled_after_s, windows=windows
    )


def test_a_run_without_counters_has_neither_table() -> None:
    assert power_tables(result_rows(sample_records())) == ()


def test_energy_is_told_per_run_per_flop_and_per_byte() -> None:
    ((title, table),) = power_tables(result_rows([record_with(energy=ENERGY)]))
    assert title == "Energy"
    # 2.2 J over 2 * 8192^3 FLOPs are 2.0 pJ each; the bytes are 3 * 8192^2 of two bytes.
    assert table.lines[0][2:] == ("2.20 J", "2.00 pJ", "5.46 nJ", "690 W", "")


def test_a_short_window_of_the_counter_is_told_with_two_digits() -> None:
    ((_, table),) = power_tables(result_rows([record_with(energy=replace(ENERGY, seconds=0.25))]))
    assert table.lines[0][2:] == ("2.2 J", "2.0 pJ", "5.5 nJ", "690 W", "")


def test_energy_with_that_of_an_idle_device_is_called_host_bound() -> None:
    record = record_with(energy=replace(ENERGY, is_host_bound=True))
    ((_, table),) = power_tables(result_rows([record]))
    assert table.lines[0][-1] == HOST_BOUND
    assert table.heads[-1] not in table.numbers


def test_sustained_speed_is_told_beside_the_burst() -> None:
    ((title, table),) = power_tables(result_rows([record_with(sustained=sustained_of(40.0))]))
    assert title == "Sustained speed"
    assert table.lines[0][2:] == ("3.00 ms", "4.00 ms", "75.0 %", "40.0 s", "1.98 to 1.62 GHz")


def test_a_chip_that_did_not_settle_is_said_to_be_so() -> None:
    ((_, table),) = power_tables(result_rows([record_with(sustained=sustained_of(None))]))
    assert NOT_SETTLED in table.lines[0]


def test_both_tables_are_in_the_page_and_in_the_description() -> None:
    records = [record_with(energy=ENERGY, sustained=sustained_of(40.0))]
    for text in (html.render(records=records), markdown.render(records=records)):
        for word in ("Energy", "2.20 J", "Sustained speed", "75.0 %"):
            assert word in text
