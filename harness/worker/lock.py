"""One owner at a time of a run's folder, and of a device on this host.

The system lets go of a lock when its process ends, however it ends, so none is ever left behind.
"""

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
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

DEVICE_WAIT_S = 60.0
"""Long enough for the end of a run that is about to end, or for a driver to let go of a process
that was killed; a run that measures on takes minutes to hours, and is better told of at once."""
_POLL_S = 0.2

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


def is_lockable(device: DeviceInfo) -> bool:
    """False for the fake chip, which is in its process alone: there are as many as processes."""
    return device.torch_device_type != "fake"


def lock_device(
    device: DeviceInfo,
    index: int,
    holder: Holder,
    wait_s: float,
    on_notice: Callable[[str], None],
    stop: threading.Event | None = None,
) -> Lock | None:
    """The device's lock, taken; None for a device or a folder that takes none.

    Args:
        device: on this host.
        index: its number, where it tells no UUID.
        holder: who takes the lock.
        wait_s: how long to wait for the end of another run that has it.
        on_notice: is told that it is waited for, or that there are no locks.
        stop: once it is set, KeyboardInterrupt is raised.

    Raises:
        DeviceBusyError: when the other has it for too long, or there is no folder for it.
    """
    if not is_lockable(device):
        return None
    try:
        lock = device_lock(device, index)
        _wait_for(lock, holder, device.name, wait_s, on_notice, stop)
    except OSError as error:
        if not is_missing(error):
            raise
        on_notice(
            f"{lock_folder()} takes no locks ({error.strerror}): see that no second run measures "
            f"on {device.name}, or set {LOCK_DIR_VARIABLE} to a folder that takes them."
        )
        return None
    return lock


def _wait_for(
    lock: Lock,
    holder: Holder,
    device_name: str,
    wait_s: float,
    on_notice: Callable[[str], None],
    stop: threading.Event | None,
) -> None:
    until_s = time.monotonic() + wait_s
    waiting = f"{round(wait_s, 1):g} s"
    is_told = False
    while not lock.acquire(holder):
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        if time.monotonic() >= until_s:
            raise DeviceBusyError(
                f"{device_name} is busy: {lock.holder} has it, and did not end within "
                f"{waiting}. Wait for its end or stop it, then repeat the command; two at once "
                "would time each other."
            )
        if not is_told:
            on_notice(
                f"{device_name} is busy: {lock.holder} has it. Waiting up to {waiting} for its end."
            )
            is_told = True
        time.sleep(_POLL_S)


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
