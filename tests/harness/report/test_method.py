"""What a reader learns of how the samples were taken, and of times that are short."""

from dataclasses import replace
from pathlib import Path

from harness.proof import CacheProof, Estimate, LaunchProof, Proof, ScaleProof, TimerProof
from harness.record import Record
from harness.report import html, markdown
from harness.report.method import method_facts, proof_rows
from harness.report.rows import environment_warnings, status_text
from harness.report.table import results_view
from harness.results import measured_roofs, result_rows
from harness.store.folder import PROOF as FILE
from harness.store.mlflow.layout import COLUMNS, run_content, table_rows
from tests.harness.report.test_table import text_of
from tests.harness.sample_run import sample_environment, sample_info, sample_records, write_run


def exactly(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


PROOF = Proof(
    device="Imaginary X1",
    timers=(
        TimerProof(
            kind="device_event",
            claimed_resolution_s=0.5e-6,
            observed_resolution_s=32e-9,
            overhead_s=exactly(1.5e-6),
            linearity=None,
        ),
    ),
    scale=ScaleProof(
        device_s=0.0515, host_s=0.05, ratio=exactly(1.03), drift=exactly(1.0), apart_s=0.4
    ),
    launch=LaunchProof(wanted="held", used="held", direct_s=exactly(6e-6), used_s=exactly(1.6e-6)),
    cache=CacheProof(
        policy="cold",
        told_bytes=50 * 2**20,
        flush_bytes=100 * 2**20,
        buffer_bytes=25 * 2**20,
        tried_bytes=(25 * 2**20,),
        cold_s=2e-5,
        hot_s=1.25e-5,
        ratio=Estimate(value=1.6, low=1.5, high=1.7),
    ),
)


def held_records(resolution_s: float = 1e-9) -> tuple[Record, ...]:
    return tuple(
        replace(
            record,
            measurement=replace(record.measurement, launch="held", timer_resolution_s=resolution_s),
        )
        if record.measurement is not None
        else record
        for record in sample_records()
    )


def short_records() -> tuple[Record, ...]:
    """The first case lasts 3 steps of its timer, all others last far more."""
    first, *others = held_records()
    assert first.measurement is not None
    ordered = sorted(first.measurement.samples_s)
    step_s = ordered[len(ordered) // 2] / 3
    return (
        replace(first, measurement=replace(first.measurement, timer_resolution_s=step_s)),
        *others,
    )


def test_facts_tell_timer_launch_and_cache_of_all_cases() -> None:
    facts = dict(method_facts(held_records()))
    assert facts["timer"] == "virtual_clock"
    assert facts["its steps"] == "1.00 ns"
    assert facts["launch"] == "held"
    assert facts["cache"] == "cold, 95.4 MiB written before each sample"


def test_facts_count_the_cases_where_they_differ() -> None:
    first, *others = held_records()
    assert first.measurement is not None
    mixed = (replace(first, measurement=replace(first.measurement, launch="direct")), *others)
    assert dict(method_facts(mixed))["launch"] == "held (47 cases); direct (1 cases)"


def test_each_thing_proven_has_a_row_and_what_is_bad_says_what_to_do() -> None:
    rows = {what: (found, advice) for what, found, advice in proof_rows(PROOF)}
    assert rows["cold over hot"] == (
        "flush of 100 MiB for a cache of 50.0 MiB: reading 25.0 MiB takes 1.60 x as long after it "
        "(1.50 to 1.70; 20.0 us cold, 12.5 us hot)",
        "",
    )
    assert "6.00 us" in rows["launch held"][0]
    assert rows["against the host's clock"][1].startswith(
        "The device's timer runs 3.0 % fast against the host's clock. Compare"
    )


def test_both_reports_have_the_proof_and_its_warnings() -> None:
    records = held_records()
    warning = "runs 3.0 % fast against the host's clock"
    page = html.render(
        records=records, info=sample_info(), environment=sample_environment(), proof=PROOF
    )
    text = markdown.render(
        records=records, info=sample_info(), environment=sample_environment(), proof=PROOF
    )
    assert '<section id="method"' in page
    assert "## How it was measured" in text
    for report in (page.replace("&#x27;", "'"), text):
        notice, _, section = report.partition("How it was measured")
        assert warning in notice
        assert "reading 25.0 MiB takes 1.60 x as long" in section
    assert "40 samples, 0 outliers; median" in page
    assert '["launch","held"]' in page


def test_a_run_of_an_older_version_has_no_proof_and_says_nothing_of_it() -> None:
    page = html.render(records=held_records(), info=sample_info())
    assert "Proven before the first case" not in page


def test_a_short_time_says_so_in_every_view() -> None:
    records = short_records()
    rows = result_rows(records)
    words = "short: 3 steps of the timer"
    assert rows[0].is_short
    assert status_text(rows[0]) == f"ok, {words}"
    assert words in html.render(records=records, info=sample_info())
    assert words in dict(zip(COLUMNS, table_rows(rows)[0], strict=True))["remarks"]
    view = text_of(results_view(rows, measured_roofs(records)), width=80)
    assert "ok, short: 3 steps" in view
    assert "Short: 1 of 54 cases are short" in view
    assert all(len(line) <= 80 for line in view.splitlines())


def test_a_short_time_says_so_in_the_markdown_of_the_fastest() -> None:
    records = held_records(resolution_s=1.0)
    assert "short: under 1 step of the timer" in markdown.render(
        records=records, info=sample_info()
    )


def test_short_cases_are_a_warning() -> None:
    warning = (
        "1 of 54 cases are short: they last less than 20 steps of their timer, so one step is 5 % "
        "of their time or more. Compare larger sizes."
    )
    assert warning in environment_warnings(None, result_rows(short_records()))
    assert warning not in environment_warnings(None, result_rows(held_records()))


def test_mlflow_holds_the_proof_and_how_samples_were_launched(tmp_path: Path) -> None:
    folder = write_run(tmp_path, records=held_records())
    folder.write(FILE, PROOF)
    content = run_content(folder)
    assert folder.proof == PROOF
    assert FILE in {artifact.path for artifact in content.artifacts}
    assert dict(content.params)["launch"] == "held"
    (launches,) = {
        line[COLUMNS.index("launch")]
        for line in table_rows(result_rows(held_records()))
        if line[COLUMNS.index("status")] == "ok"
    }
    assert launches == "held"
