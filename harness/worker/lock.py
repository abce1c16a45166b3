"""One owner at a time of a run's folder, and of a device on this host.

The system lets go of a lock when its process ends, however it ends, so none is ever left behind.
"""

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.codec import from_json, to_json
from harness.device.base import DeviceInfo
from harness.errors import DeviceBusyError, RecordError

LOCK_DIR_VARIABLE = "CHIPSCALE_LOCK_DIR"
"""Names another folder for the locks of devices, as one that several containers share."""
LOCK_DIR = Path("/tmp/chipscale-locks")
"""The same for every user, since a device is; `$TMPDIR` and `$XDG_RUNTIME_DIR` differ by user."""

_NO_LOCKS = frozenset(
    {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EROFS},
)
"""What a file system without locks answers, as Lustre mounted without `flock`, and one that is
read-only, which takes no file to lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a lock."""

    run_id: str
    pid: int
    host: str
    since: str
    """UTC, ISO 8601."""

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host}, since {self.since})"


def this_process(run_id: str) -> Holder:
    """This process as a holder."""
    return Holder(
        run_id=run_id,
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


class Lock:
    """A lock on a file, which stays when it is let go."""

    def __init__(self, path: Path, *, is_shared: bool = False) -> None:
        """Open the file; `is_shared` lets other users have the lock when it is free."""
        self._path = path
        self._descriptor = _open(path, 0o666 if is_shared else 0o644)

    def acquire(self, holder: Holder) -> bool:
        """Take the lock; False when another has it.

        Raises:
            OSError: where the file system has no locks; `is_missing` tells.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Who has it is a courtesy: a full disk, say, does not take the lock away.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, (to_json(holder) + "\n").encode("ascii"), 0)
        return True

    @property
    def holder(self) -> str:
        """Who has the lock, in words."""
        try:
            return str(from_json(Holder, self._path.read_text(encoding="utf-8"), "lock"))
        except (OSError, UnicodeDecodeError, RecordError):
            return "another process"

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def is_missing(error: OSError) -> bool:
    """Whether the file system has no locks, whoever asks it."""
    return error.errno in _NO_LOCKS


def lock_folder() -> Path:
    """Where the locks of devices are."""
    return Path(os.environ.get(LOCK_DIR_VARIABLE, "") or LOCK_DIR)


def device_lock(device: DeviceInfo, index: int) -> Lock:
    """The lock of that device of this host.

    Raises:
        DeviceBusyError: when there is no folder for it.
        OSError: where the file system has no locks; `is_missing` tells.
    """
    folder = lock_folder()
    which = device.uuid or str(index)
    name = f"{socket.gethostname()}-{device.torch_device_type}-{which}.lock"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
        return Lock(folder / name.replace("/", "_"), is_shared=True)
    except OSError as error:
        if is_missing(error):
            raise
        raise DeviceBusyError(
            f"{error.filename or folder}: {error.strerror}, so {device.name} cannot be locked "
            f"against a second run. Set {LOCK_DIR_VARIABLE} to a folder that can be written."
        ) from None


def _open(path: Path, mode: int) -> int:
    """The file, made if it is not there.

    Opened as it is first: Linux refuses to let O_CREAT open another user's file in a folder such
    as /tmp, even where its mode allows it (`fs.protected_regular`). Source: proc_sys_fs(5).
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, mode)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)  # Whatever the umask says; another's file refuses it.
        return descriptor
