"""Writes files whole or not at all, and says what a disk that takes no more means."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StorageError
from harness.units import capacity

REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""What a full, limited, broken or read-only disk answers; other errors mean a wrong path."""


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns a disk's refusal to take that file into a StorageError that says how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise StorageError(f"{path}: {error.strerror}{_free(path.parent)}.") from None


def _free(folder: Path) -> str:
    try:
        return f"; {capacity(shutil.disk_usage(folder).free)} are free there"
    except OSError:
        return ""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it; one call to the system may take a part alone."""
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write the file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        StorageError: when the disk does not take it; the old content is still there.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = _temporary(path, str(os.getpid()))
    with storing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _temporary(path: Path, process: str) -> Path:
    return path.with_name(f".{path.name}.{process}.tmp")


def remove_unfinished(path: Path) -> None:
    """Remove what a writer of that file left that was killed; no other may be at it now."""
    pattern = _temporary(path, "*").name
    for left in path.parent.glob(pattern):
        left.unlink(missing_ok=True)
