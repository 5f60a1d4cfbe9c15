"""Programs under measurement: started in a session of their own, watched, and ended whatever happens.

The bench never waits without a deadline: a virtual machine monitor that hangs costs one sample.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class RunFailed(Exception):
    """A program under measurement did not do what was to be measured."""


class Seen(NamedTuple):
    """Where a watched text came: seconds since the start, and bytes of output up to its end."""

    seconds: float
    offset: int


class Program:
    """One program, its standard output as it comes, and its standard error for complaints."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.words = list(words)
        self.output = bytearray()
        self._out, out = os.pipe()
        self._err = os.memfd_create("stderr")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, out, 1),
            (os.POSIX_SPAWN_DUP2, self._err, 2),
        ]
        given = neutral(os.environ if environment is None else environment)
        self.began = time.monotonic()
        self.pid = os.posix_spawnp(
            words[0], self.words, given, file_actions=actions, setsid=True, setsigmask=()
        )
        os.close(out)
        self.status: int | None = None
        self.cpu = 0.0  # seconds on the CPU, of it and all that it waited for; known after finish

    def complaint(self) -> str:
        """The end of what it said on standard error."""
        size = os.fstat(self._err).st_size
        return os.pread(self._err, 2000, max(0, size - 2000)).decode(errors="replace").strip()

    def ready(self, until: float) -> bool:
        """Whether there is output, or its end, by ``until`` (CLOCK_MONOTONIC)."""
        found, _, _ = select.select([self._out], [], [], max(0.0, until - time.monotonic()))
        return bool(found)

    def read(self, until: float) -> bool:
        """Take one piece of output, by ``until`` (CLOCK_MONOTONIC); False at the end of it.

        Raises RunFailed at the deadline.
        """
        if not self.ready(until):
            raise RunFailed(f"{self.words[0]}: nothing by the deadline; {self._last_words()}")
        data = os.read(self._out, 1 << 20)
        self.output += data
        return bool(data)

    def wait_for(self, marker: bytes, seconds: float) -> Seen:
        """Until the output has ``marker``.  Raises RunFailed at the deadline or the program's end."""
        until, looked = self.began + seconds, 0
        while (place := self.output.find(marker, looked)) < 0:
            looked = max(0, len(self.output) - len(marker))
            if not self.read(until):
                raise RunFailed(f"{self.words[0]} ended before {marker.decode()!r}; {self._last_words()}")
        return Seen(time.monotonic() - self.began, place + len(marker))

    def finish(self, seconds: float) -> float:
        """Until it has ended; seconds since its start.  Raises RunFailed at the deadline."""
        until = self.began + seconds
        while self.read(until):
            pass
        pidfd = os.pidfd_open(self.pid)
        ended, _, _ = select.select([pidfd], [], [], max(0.0, until - time.monotonic()))
        took = time.monotonic() - self.began
        os.close(pidfd)
        if not ended:
            raise RunFailed(f"{self.words[0]} has not ended by the deadline")
        _, status, used = os.wait4(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        self.cpu = used.ru_utime + used.ru_stime
        return took

    def _last_words(self) -> str:
        said = self.output[-300:].decode(errors="replace").strip()
        return f"standard output: {said!r}, standard error: {self.complaint()[-600:]!r}"

    def close(self, patience: float = 0.0) -> None:
        """End it and all that it started: asked first where there is ``patience`` (seconds)."""
        if self.status is None:
            ours = family(self.pid)
            if patience:
                os.kill(self.pid, signal.SIGTERM)
                self._reap(patience)
            for pid in (*ours, *family(self.pid)):
                _kill(pid)
            self._reap(10.0)
        for fd in (self._out, self._err):
            os.close(fd)

    def _reap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.status is None and time.monotonic() < until:
            ready, _, _ = select.select([self._out], [], [], 0.01)
            if ready:
                os.read(self._out, 1 << 20)  # what is in its way to the end
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def neutral(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what bends Python: PYTHONDONTWRITEBYTECODE alone makes each start compile each module."""
    return {key: value for key, value in environment.items() if not key.startswith("PYTHON")}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def family(pid: int) -> list[int]:
    """``pid``, all its descendants, and all of its session: what one virtual machine consists of."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # gone meanwhile
            continue
        parents[int(name)], sessions[int(name)] = int(fields[1]), int(fields[3])
    found = {pid} if pid in parents else set()
    found.update(each for each, session in sessions.items() if session == pid)
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)
