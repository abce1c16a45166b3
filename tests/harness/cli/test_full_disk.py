"""`chipscale run` on a disk that becomes full."""

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.errors import StorageError
from harness.run import RUNS
from harness.store.folder import RECORDS, run_folders
from tests.harness.conftest import resize

RUN = (
    "run",
    "device=fake",
    "tracking.enabled=false",
    "suite.ops=[rms_norm,swiglu]",
    "projection=false",
    "model.vocab=1024",
)


def test_a_full_disk_is_told_in_one_line_and_resume_goes_on(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, f"results_dir={small_disk}"]) == StorageError.exit_code
    errors = capsys.readouterr().err
    (folder,) = run_folders(small_disk / RUNS)
    kept = folder.records()
    assert kept
    (line,) = errors.splitlines()
    assert line.startswith(f"chipscale: {folder.path / RECORDS}: No space left on device; ")
    assert f"{len(kept)} of {folder.info.num_cases} records are kept. Make room, then " in line
    resume = f"chipscale run resume={folder.info.run_id} results_dir={small_disk}"
    assert f"`{resume}` goes on." in line
    assert not folder.info.ended_at

    resize(small_disk, "64m")
    assert main(resume.split()[1:]) == 0
    assert folder.records()[: len(kept)] == kept
    assert folder.info.ended_at


def test_a_damaged_record_is_told_of_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, f"results_dir={tmp_path}"]) == 0
    (folder,) = run_folders(tmp_path / RUNS)
    path = folder.path / RECORDS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"garbage\n" + b"".join(lines[1:]))
    capsys.readouterr()

    assert main(["list", "runs", "--results-dir", str(tmp_path)]) == 0
    assert "1 damaged" in " ".join(capsys.readouterr().out.split())
    assert main(["report", "latest", "--results-dir", str(tmp_path)]) == 0
    assert "warning: Damaged records: line 1 (" in capsys.readouterr().err
    assert "Damaged records: line 1" in (folder.path / "report.md").read_text(encoding="utf-8")
    assert main(["run", f"resume={folder.info.run_id}", f"results_dir={tmp_path}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "moved to records.quarantined.jsonl, and measured again" in shown
    assert len(folder.records()) == folder.info.num_cases
