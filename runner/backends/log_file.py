"""A console's log on disk, for runs that nobody watches; it cannot fill the disk."""

from __future__ import annotations

import os

from runner import folders
from runner.errors import HostIoError
from runner.light import suppress
from runner.typed import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from runner.supervisor.loop import Loop

LIMIT = 16 << 20
"""Bytes of one log; when it is full it becomes ``….1`` and a new one is begun."""


class LogFile:
    """An endpoint that appends to ``path`` and keeps at most twice ``limit`` bytes."""

    def __init__(self, path: str, tell: Callable[[str, str], None], limit: int = LIMIT) -> None:
        self.dropped = 0
        self._path = path
        self._tell = tell
        self._limit = limit
        self._size = 0
        self._fd = _create(path)

    def open(self, loop: Loop, feed: Callable[[bytes], None]) -> None:
        """A log has no input."""

    def write(self, data: bytes) -> None:
        """Append; a full disk costs bytes, never the run."""
        if self._fd < 0:
            self.dropped += len(data)
            return
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            if not self.dropped:
                self._tell("warning", f"{self._path}: {error.strerror}; console output is dropped")
            self.dropped += len(data)
            return
        self._size += written
        self.dropped += len(data) - written
        if self._size >= self._limit:
            self._rotate()

    def want_input(self, wanted: bool) -> None:
        """There is none."""

    def waiting(self) -> int:
        """A file takes everything at once."""
        return 0

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _rotate(self) -> None:
        self.close()
        with suppress(OSError, HostIoError):
            os.replace(self._path, self._path + ".1")
            self._fd = _create(self._path)
            self._size = 0


def _create(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostIoError(f"cannot write {path}: {error.strerror}") from None


def log_path(name: str, file: str) -> str:
    """Where a log of the detached machine ``name`` is: ``$XDG_STATE_HOME/vmrun/logs/NAME/FILE``."""
    return os.path.join(folders.base("XDG_STATE_HOME", ".local/state"), "vmrun", "logs", name, file)


def state_folder(name: str) -> str:
    """The folder of these logs, made if need be.  Raises HostIoError."""
    folder = os.path.dirname(log_path(name, ""))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise HostIoError(f"cannot make {folder}: {error.strerror}", hint="set XDG_STATE_HOME") from None
    return folder
