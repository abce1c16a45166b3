"""Which folders a sync is about, and bringing home those that were measured elsewhere."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.cli.render import render_reports
from harness.cli.run_closure import keep_closures
from harness.config.this_chip import chip_name
from harness.errors import RecordError, StorageError
from harness.run import RUNS, close_run
from harness.store.folder import RECORDS, REPORT_HTML, RUN, RunFolder
from harness.store.mlflow.kinds import KINDS, kinds_of


def meant_folders(path: Path) -> tuple[Path, ...]:
    """The folder itself where it holds a result, else those in it, oldest first.

    It may be a run, a folder of runs such as one copied from another host, or a results folder.

    Raises:
        RecordError: when no result is there.
    """
    if _holds_result(path):
        return (path,)
    found = tuple(
        folder
        for parent in (path, *(path / home for home in dict.fromkeys(k.home for k in KINDS)))
        for folder in sorted(parent.iterdir() if parent.is_dir() else ())
        if _holds_result(folder) and _has_begun(folder)
    )
    if not found:
        files = ", ".join(kind.file for kind in KINDS)
        raise RecordError(
            f"{path}: no {files} there or in its folders, so it is not a run folder, nor one "
            "that holds any."
        )
    return found


def _holds_result(path: Path) -> bool:
    return any((path / kind.file).is_file() for kind in KINDS)


def _has_begun(path: Path) -> bool:
    return not (path / RUN).exists() or RunFolder(path).has_records


def results_dir_of(given: Path | None, folders: Sequence[Path]) -> Path:
    """The results folder asked for; else the one that the first folder lies in; else `results`."""
    if given is None and folders:
        first = folders[0].resolve()
        homes = {kind.home for kind in KINDS}
        if first.parent.name in homes:
            return first.parents[1]
        if (first / RUNS).is_dir():
            return first
    return (given or Path("results")).resolve()


def at_home(path: Path, results_dir: Path, config_dirs: Sequence[Path]) -> RunFolder:
    """The result in the results folder, copied there if it was made elsewhere.

    Raises:
        RecordError: when the folder holds none, or another one of that name is at home.
    """
    away = RunFolder(path)
    kind, *_ = kinds_of(away)
    name = away.info.run_id if kind.file == RUN else path.resolve().name
    home = RunFolder(results_dir / kind.home / name)
    if path.resolve() != home.path.resolve():
        main = RECORDS if kind.file == RUN else kind.file
        if not _is_copy(away.path / main, home.path / main):
            _refuse_another(away, home, kind.file)
        _bring(away.path, home.path)
    if kind.file == RUN:
        close_run(home, lambda environment: chip_name(environment, config_dirs))
    return home


def _is_copy(file: Path, copy: Path) -> bool:
    """As far as can be seen without reading, which takes seconds for many records."""
    if not (file.exists() and copy.exists()):
        return False
    one, other = file.stat(), copy.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _refuse_another(away: RunFolder, home: RunFolder, file: str) -> None:
    if file == RUN:
        held = {record.case.id: record for record in home.records()}
        brought = {record.case.id: record for record in away.records()}
        if any(brought.get(case_id) != record for case_id, record in held.items()):
            raise RecordError(
                f"{away.path}: {home.path} holds other records of that run id. Move one of them "
                "away."
            )
    elif (home.path / file).exists() and (
        (home.path / file).read_bytes() != (away.path / file).read_bytes()
    ):
        raise RecordError(
            f"{away.path}: {home.path} holds another {file}. Rename one of the two folders."
        )


def _bring(away: Path, home: Path) -> None:
    """What is not there yet or has changed since; the worker may have gone on over there.

    What was made here from a run, as its report, is newer than what it was made from, and stays.
    """
    for file in sorted(away.rglob("*")):
        to = home / file.relative_to(away)
        if not file.is_file():
            continue
        is_new = not to.exists() or file.stat().st_mtime_ns > to.stat().st_mtime_ns
        if is_new or (file.name == RECORDS and not _is_copy(file, to)):
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to)
            # A medium that is read-only makes files that are, and here they are written on.
            to.chmod(to.stat().st_mode | 0o600)


def make_ready(folder: RunFolder, console: Console) -> None:
    """Tell what is doubtful of a run, and write its report where there is none of its records."""
    if not (folder.path / RUN).exists():
        return
    for warning in folder.warnings():
        warn(console, f"{folder.path.name}: {warning}")
    report, records = folder.path / REPORT_HTML, folder.path / RECORDS
    if (
        report.exists()
        and records.exists()
        and report.stat().st_mtime_ns >= records.stat().st_mtime_ns
    ):
        return
    try:
        keep_closures(folder)
        render_reports(folder)
    except (OSError, StorageError) as error:
        warn(console, f"{folder.path.name}: its report cannot be written ({error}).")


def warn(console: Console, text: str) -> None:
    """One line, in yellow."""
    console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
