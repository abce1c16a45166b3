"""Damage to a file of records costs the damaged line alone."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.codec import to_json
from harness.errors import NewerRecordError, StorageError
from harness.record import SCHEMA_VERSION, Record, Status
from harness.store import disk
from harness.store.disk import write_atomically
from harness.store.folder import RECORDS, RunFolder
from harness.store.records import (
    RecordWriter,
    quarantine_of,
    read_quarantined,
    read_records,
    repair,
)
from tests.harness.fake_runs import CASES
from tests.harness.sample_run import many_records, sample_info, sample_records, write_run

KEPT = tuple(
    Record(run_id="run", case=case, status=Status.ERROR, reason=f"reason {number}")
    for number, case in enumerate(CASES[:4])
)
LINES = tuple((to_json(record) + "\n").encode("ascii") for record in KEPT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / RECORDS
    made.write_bytes(b"".join(LINES))
    return made


def test_a_last_record_cut_at_any_byte_costs_no_other(path: Path) -> None:
    before = b"".join(LINES[:-1])
    for size in range(len(LINES[-1])):
        path.write_bytes(before + LINES[-1][:size])
        assert read_records(path).records == KEPT[:-1]
        assert repair(path) == ()
        assert path.read_bytes() == before
    writer = RecordWriter(path)
    writer.append(KEPT[-1])
    writer.close()
    assert read_records(path).records == KEPT


HALF = LINES[1][: len(LINES[1]) // 2]
GARBAGE = {
    "NUL bytes": b"\0" * 64,
    "half a line": HALF,
    "the other half": LINES[1][len(HALF) : -1],
    "half a line and a whole one": HALF + LINES[1][:-1],
    "two records joined": LINES[1][:-1] + LINES[1][:-1],
    "no UTF-8": b"\xff\xfe" + LINES[1][2:-1],
    "a carriage return inside": LINES[1][:20] + b"\r" + LINES[1][21:-1],
    "nothing": b"",
    "JSON that is no record": b"[1, 2, 3]",
    "a number too large": b'{"schema_version": ' + b"9" * 5000 + b"}",
    "a nest too deep": b"[" * 100_000,
    "a key that is not known": LINES[1].replace(b'"impl"', b'"imql"')[:-1],
    "a status that is not known": LINES[1].replace(b'"error"', b'"errxr"')[:-1],
    "a key that is missing": LINES[1].replace(b'"run_id":"run",', b"")[:-1],
    "an op with a broken name": LINES[1].replace(b'"bf16"', b'{"bf":16}')[:-1],
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("place", range(4))
def test_a_damaged_line_is_told_of_and_costs_no_other(
    path: Path, garbage: bytes, place: int
) -> None:
    lines = [*LINES]
    lines[place] = garbage + b"\n"
    others = (*KEPT[:place], *KEPT[place + 1 :])
    path.write_bytes(b"".join(lines))

    found = read_records(path)
    assert found.records == others
    (damaged,) = found.damaged
    assert damaged.line == place + 1
    assert damaged.reason
    assert path.read_bytes() == b"".join(lines), "reading changes nothing"

    assert repair(path) == (damaged,)
    assert read_records(path).damaged == ()
    assert read_records(path).records == others
    (quarantined,) = read_quarantined(quarantine_of(path))
    assert quarantined.text.encode("latin-1") == garbage


@pytest.mark.parametrize("size", range(0, len(LINES[1]) - 1, 7))
def test_a_byte_turned_over_anywhere_costs_its_line_at_most(path: Path, size: int) -> None:
    broken = bytearray(LINES[1])
    broken[size] ^= 0x80
    path.write_bytes(LINES[0] + bytes(broken) + LINES[2] + LINES[3])
    found = read_records(path).records
    assert [record for record in found if record in (KEPT[0], *KEPT[2:])] == [KEPT[0], *KEPT[2:]]


def test_a_line_whose_end_was_turned_over_takes_the_next_one_with_it_alone(path: Path) -> None:
    path.write_bytes(LINES[0] + LINES[1][:-1] + b"\x8a" + LINES[2] + LINES[3])
    found = read_records(path)
    assert found.records == (KEPT[0], KEPT[3])
    assert [damaged.line for damaged in found.damaged] == [2]


def test_a_newer_schema_version_is_an_error_and_changes_nothing(path: Path) -> None:
    data = json.loads(LINES[2])
    data["schema_version"] = SCHEMA_VERSION + 1
    data["colour"] = "unknown to this version"
    written = b"".join(LINES[:2]) + json.dumps(data).encode() + b"\n" + LINES[3][:9]
    path.write_bytes(written)
    for read in (read_records, repair):
        with pytest.raises(NewerRecordError, match=r"records\.jsonl:3: schema version .* newer"):
            read(path)
    assert path.read_bytes() == written
    assert not quarantine_of(path).exists()


def test_a_file_of_keys_that_are_not_known_is_newer_and_not_damaged(path: Path) -> None:
    path.write_bytes(b"".join(line.replace(b'"reason"', b'"raison"') for line in LINES))
    with pytest.raises(NewerRecordError, match=r"unknown key 'raison'.* Update chipscale"):
        repair(path)


def test_repairing_twice_keeps_what_was_moved_once(path: Path) -> None:
    damaged = LINES[0] + b"garbage\n" + LINES[1]
    path.write_bytes(damaged)
    repair(path)
    # As after a crash between the two files.
    path.write_bytes(damaged)
    repair(path)
    path.write_bytes(LINES[0] + b"other\n")
    repair(path)
    moved = read_quarantined(quarantine_of(path))
    assert [line.text for line in moved] == ["garbage", "other"]


def test_a_folder_says_what_is_damaged_and_then_what_was_moved(path: Path) -> None:
    path.write_bytes(LINES[0] + b"garbage\n" + LINES[1])
    folder = RunFolder(path.parent)
    (sentence,) = folder.warnings()
    assert sentence.startswith("Damaged records: line 2 (Expecting value")
    assert sentence.endswith(
        f"; left out, and measured again by `chipscale run resume={path.parent.name}`."
    )
    repair(path)
    (sentence,) = folder.warnings()
    assert sentence.endswith("; moved to records.quarantined.jsonl.")


def test_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    stopped = sample_info(run_id="stopped", ended_at="", num_cases=66)
    folder = write_run(tmp_path, info=stopped, records=sample_records("stopped")[:4])
    (sentence,) = folder.warnings()
    assert sentence.startswith("Unfinished: 4 of 66 cases have a record; `chipscale run resume=")
    ended = sample_info(run_id="ended")
    assert write_run(tmp_path, info=ended).warnings() == ()


def test_a_writer_that_was_killed_leaves_nothing_behind_for_long(path: Path) -> None:
    left = path.with_name(f".{RECORDS}.123.tmp")
    left.write_bytes(b"half")
    repair(path)
    assert not left.exists()


def test_a_full_disk_keeps_every_record_and_no_part_of_the_next(small_disk: Path) -> None:
    path = small_disk / RECORDS
    writer = RecordWriter(path)
    long = replace(KEPT[0], reason="x" * 5000)
    num_written = 0
    while len(read_records(path).records) == num_written and num_written < 100:
        try:
            writer.append(long)
        except StorageError as error:
            said = str(error)
            break
        num_written += 1
    writer.close()
    assert re.search(r"records\.jsonl: No space left .* are free there", said)
    assert 5 < num_written < 64 * 1024 / 5000
    assert read_records(path).records == (long,) * num_written
    assert path.read_bytes().endswith(b"}\n")


def test_a_file_that_does_not_fit_leaves_the_old_one_and_no_part(small_disk: Path) -> None:
    path = small_disk / "run.json"
    write_atomically(path, "old")
    with pytest.raises(StorageError, match="No space left"):
        write_atomically(path, "x" * 100_000)
    assert path.read_text(encoding="utf-8") == "old"
    assert [found.name for found in small_disk.iterdir()] == ["run.json"]


def test_a_repair_that_does_not_fit_loses_nothing(small_disk: Path) -> None:
    path = small_disk / RECORDS
    written = LINES[0] + b"x" * 30_000 + b"\n" + LINES[1] * 20
    path.write_bytes(written)
    with pytest.raises(StorageError):
        repair(path)
    assert path.read_bytes() == written
    assert [found.name for found in small_disk.iterdir()] == [RECORDS]


def test_a_file_at_the_limit_of_its_size_keeps_every_record(tmp_path: Path) -> None:
    # Needs no mount: the process alone may write no larger file.
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from harness.errors import StorageError\n"
        "from harness.store.records import RecordWriter\n"
        "from tests.harness.store.test_records import KEPT\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "writer = RecordWriter(Path(sys.argv[1]))\n"
        "try:\n"
        "    while True:\n"
        "        writer.append(KEPT[0])\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / RECORDS
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert "File too large" in done.stdout, done.stderr
    assert path.read_bytes() == LINES[0] * (2000 // len(LINES[0]))


def test_a_broken_disk_is_told_of_and_a_wrong_path_is_not_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "no" / "file", "x")

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.os, "fsync", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        write_atomically(tmp_path / "file", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sample_s", [-1e-3, float("nan"), float("inf")])
def test_samples_that_are_no_times_are_damage(path: Path, sample_s: float) -> None:
    (record,) = many_records(1, num_samples=3)
    assert record.measurement is not None
    wrong = replace(record.measurement, samples_s=(1e-3, sample_s))
    path.write_text(to_json(replace(record, measurement=wrong)) + "\n", encoding="ascii")
    found = read_records(path)
    assert found.records == ()
    (damaged,) = found.damaged
    assert "samples_s: not all are times" in damaged.reason
