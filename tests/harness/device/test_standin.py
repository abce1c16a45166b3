"""A vendor's package through the whole command line: found, run, listed, compared, examined.

The package is a file and a dist-info in a folder on PYTHONPATH: so an installed one looks.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.record import Record, Status
from harness.store.folder import RunFolder
from tests.harness.device.plugin_folder import install

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[3]
PROBLEMS = (
    "{op: copy, dtype: fp32, axes: {N: 5003}}",
    "{op: gemm, dtype: bf16, axes: {M: 37, N: 133, K: 151}}",
    "{op: rms_norm, dtype: fp32, mode: backward, axes: {T: 5, H: 123}}",
)
CASES = (
    *("suite=correctness", "suite.checks=[]", f"suite.problems=[{', '.join(PROBLEMS)}]"),
    "impls=[torch,triton]",
)
QUICK = (
    *("projection=false", "tracking.enabled=false", "measure.timeout_s=0.02"),
    *("measure.warmup_timeout_s=0.02", "measure.energy_s=0.02"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standin")
    install(
        folder / "site",
        "acme-standin",
        {"standin": "standin_backend:open_device", "rusty": "rusty_backend:open_device"},
        {
            "standin_backend": (HERE / "standin_backend.py").read_text(encoding="utf-8"),
            "rusty_backend": "raise OSError('libacme.so: cannot open shared object file')\n",
        },
    )
    return folder


def chipscale(place: Path, *arguments: str, tenant: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=place,
        env={
            **environment,
            "PYTHONPATH": os.pathsep.join([str(place / "site"), str(ROOT)]),
            "COLUMNS": "200",
            "STANDIN_TENANT": tenant,
        },
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def runs(place: Path) -> tuple[RunFolder, RunFolder]:
    """The same cases twice: alone, and while somebody else is training on the chip."""
    for index, tenant in enumerate(("", "trainer (4711)")):
        done = chipscale(place, "run", "device=standin", *CASES, *QUICK, tenant=tenant)
        assert done.returncode == 0, done.stdout + done.stderr
        (place / f"said-{index}").write_text(done.stdout)
    first, second = sorted((place / "results" / "runs").iterdir())
    return RunFolder(first), RunFolder(second)


def by_impl(folder: RunFolder, impl: str) -> list[Record]:
    return [record for record in folder.records() if record.case.impl == impl]


def test_its_records_are_right_and_timed(runs: tuple[RunFolder, RunFolder]) -> None:
    measured = by_impl(runs[0], "torch")
    assert [record.case.problem.op for record in measured] == ["copy", "gemm", "rms_norm"]
    for record in measured:
        assert record.status is Status.OK, record.reason
        assert record.correctness is not None
        assert record.correctness.is_right
        assert record.measurement is not None
        assert record.measurement.timer == "host_clock"
        assert record.measurement.flush_bytes == 2**21


def test_what_cannot_run_on_it_says_why(runs: tuple[RunFolder, RunFolder]) -> None:
    for record in by_impl(runs[0], "triton"):
        assert record.status is Status.UNSUPPORTED
        assert "Triton finds no driver for standin" in record.reason


def test_its_own_word_on_the_chip_is_kept_with_the_package_that_gave_it(
    runs: tuple[RunFolder, RunFolder],
) -> None:
    device = runs[1].environment.device
    assert (device.name, device.torch_device_type, device.index) == ("Stand-In 1000", "standin", 0)
    assert device.backend == "acme-standin 1.0"
    assert device.telemetry == "standin-smi 1.0"
    assert runs[0].info.device == "standin"


def test_its_telemetry_is_in_every_window(runs: tuple[RunFolder, RunFolder]) -> None:
    for record in runs[0].records():
        if record.measurement is None:
            continue
        assert record.measurement.windows
        for window in record.measurement.windows:
            assert window.state.power_w == 50.0
            assert window.state.temperature_c == 37.0
        assert record.measurement.energy is not None
        assert record.measurement.energy.mean_power_w == pytest.approx(50.0, rel=0.01)


def test_a_program_that_held_the_chip_is_told_of(
    runs: tuple[RunFolder, RunFolder], place: Path
) -> None:
    assert not any("held by" in text for text in runs[0].environment.warnings)
    assert any("held by trainer (4711)" in text for text in runs[1].environment.warnings)
    assert "Not alone" not in (place / "said-0").read_text()
    assert "Not alone: trainer (4711) held the device while 3 of 6 cases" in " ".join(
        (place / "said-1").read_text().split()
    )
    report = (runs[1].path / "report.md").read_text(encoding="utf-8")
    assert "trainer (4711)" in report


def test_two_of_its_runs_are_compared(
    runs: tuple[RunFolder, RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs[0].path), str(runs[1].path)]) == 0
    assert "gemm" in capsys.readouterr().out


def test_it_is_listed_with_its_package(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(place / "site"))
    assert main(["list", "devices"]) == 0
    listed = capsys.readouterr().out
    assert "a back-end of acme-standin 1.0" in listed
    assert {"cpu", "cuda", "npu"} <= {line.split()[0] for line in listed.splitlines()}


def test_the_doctor_shows_it_and_what_is_wrong_with_another(place: Path) -> None:
    said = " ".join(chipscale(place, "doctor").stdout.split())
    assert "Stand-In 1000" in said
    assert "standin-smi 1.0: clock 1250 MHz, power 50 W, energy counted, temperature 37 C" in said
    assert "standin_backend:open_device of acme-standin 1.0" in said
    assert "libacme.so: cannot open shared object file" in said


def test_a_broken_one_is_an_error_only_where_it_is_asked_for(place: Path) -> None:
    done = chipscale(place, "run", "device=rusty", *CASES, *QUICK)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "rusty_backend:open_device of acme-standin 1.0, which failed: OSError" in done.stderr


def test_a_name_with_a_slip_gets_the_nearest(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(place / "site"))
    assert main(["run", "device=standing"]) == 2
    assert "Did you mean 'standin'?" in capsys.readouterr().err
