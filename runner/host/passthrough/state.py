"""Where the journals lie, and the lock under which drivers are changed.

Drivers and overrides last until the machine is switched off, and only root changes them;
so root's journals are in /run/vmrun/passthrough: one place for every root shell and
service, gone with the boot that they describe (decision 0060).
"""

from __future__ import annotations

import fcntl
import os
import time

from runner import folders
from runner.errors import HostIoError
from runner.light import suppress
from runner.typed import TYPE_CHECKING, Mapping

if TYPE_CHECKING:
    from types import TracebackType

LOCK_SECONDS = 30.0
_LOCK = "lock"


def state_folder(environ: Mapping[str, str] = os.environ, euid: int | None = None) -> str:
    """VMRUN_STATE_DIR, or /run/vmrun for root, or $XDG_STATE_HOME/vmrun for somebody else."""
    if base := environ.get("VMRUN_STATE_DIR"):
        return f"{base}/passthrough"
    if (os.geteuid() if euid is None else euid) == 0:
        return "/run/vmrun/passthrough"
    return f"{folders.base('XDG_STATE_HOME', '.local/state', environ)}/vmrun/passthrough"


def pending(folder: str) -> bool:
    """Whether any journal lies there, of the living or the dead: one look, at every start."""
    try:
        return any(name != _LOCK for name in os.listdir(folder))
    except OSError:
        return False


def ensure_folder(folder: str) -> None:
    """Make it, for this user alone; a link, or a folder that others may write to, is refused.

    What is read from it becomes writes to sysfs, so nobody else may put anything there.
    """
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise HostIoError(
            f"the folder for journals, {folder}, cannot be made: {error.strerror}; no driver was changed",
            hint="set VMRUN_STATE_DIR to a folder that this user can write",
        ) from error
    if not folders.is_ours_alone(folder):
        raise HostIoError(
            f"the folder for journals, {folder}, is a link or can be written by somebody else; "
            "no driver was changed",
            hint=f"chown {os.geteuid()} {folder} && chmod 700 {folder}",
        )


class Busy(HostIoError):
    """Another process is changing drivers right now."""


class StateLock:
    """Held while drivers are changed, so that two runs do not take the same function."""

    def __init__(self, folder: str, seconds: float = LOCK_SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._fd = -1

    def __enter__(self) -> StateLock:
        ensure_folder(self._folder)
        self._fd = self._open()
        until = time.monotonic() + self._seconds
        while not try_lock(self._fd):
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(0.02)
        # Only for the message above: a full disk must not keep a function from its driver.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        return self

    def _open(self) -> int:
        path = f"{self._folder}/{_LOCK}"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise HostIoError(
                f"the lock {path} cannot be opened: {error.strerror}; no driver was changed",
                hint="set VMRUN_STATE_DIR to a folder that this user can write",
            ) from error

    def _busy(self) -> Busy:
        holder = os.pread(self._fd, 64, 0).decode("ascii", "replace")
        os.close(self._fd)
        hint = f"see what it waits for: cat /proc/{holder}/stack" if holder else "vmrun ps"
        return Busy(
            f"process {holder or 'of somebody else'} has been changing drivers for {self._seconds:.0f} s",
            hint=hint,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file, or tell that somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
