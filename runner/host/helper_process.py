"""Helper programs: qemu-storage-daemon, virtiofsd, passt.

A helper is started by the supervisor, dies with it, and is ended by it.  What it says on
standard error is kept in a pipe of bounded size that never blocks it, since a guest can make
most of them talk; whoever watches the helper reads it, and its last lines explain its end.
"""

from __future__ import annotations

import os
import select

from runner.errors import HostError
from runner.host.native import _native
from runner.host.signals import name
from runner.host.spawn import spawn
from runner.light import signal, suppress
from runner.typed import Any, Callable, Iterable, Sequence

lib: Any = _native.lib

FOLDERS = ("/usr/libexec", "/usr/lib/qemu", "/usr/local/libexec")  # where distributions hide virtiofsd
PATIENCE = 2.0  # seconds to write back what is under way, and to end
KEPT = 4096  # bytes of a line that has not ended
LAST_LINES = 3
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")  # programs and libraries
DEVICES = ("/dev/null", "/dev/urandom")
CAP_DAC_OVERRIDE = 1  # an image may be another user's, and root may open it
MOST_LINES = 50  # told of one helper: a guest can make most of them talk without end
CHUNK = 65536


def find(program: str, package: str) -> str:
    """The program's path.  Raises HostError with the command that installs it."""
    for folder in (*os.environ.get("PATH", os.defpath).split(":"), *FOLDERS):
        path = f"{folder}/{program}"
        if folder.startswith("/") and os.access(path, os.X_OK):
            return path
    raise HostError(
        f"`{program}` is not installed", hint=f"apt-get install --no-install-recommends {package}"
    )


class Helper:
    """A helper that runs: ``owner`` is the device it serves, ``pidfd`` becomes readable at its end.

    ``fatal``: the guest cannot go on without it.
    """

    def __init__(self, owner: str, program: str, pid: int, errors: int, *, fatal: bool) -> None:
        self.owner, self.program, self.fatal = owner, program, fatal
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.errors = errors
        self._partial = b""
        self._lines = 0
        self._last: list[str] = []
        self._status: int | None = None

    def read(self) -> list[str]:
        """Whole lines that it has said since the last call, as far as they are to be told; never blocks."""
        with suppress(BlockingIOError):
            while piece := os.read(self.errors, CHUNK):
                self._partial += piece
        *lines, rest = self._partial.split(b"\n")
        self._partial = rest[-KEPT:]
        told = [text for line in lines if (text := line.decode(errors="replace").strip())]
        self._last = (self._last + told)[-LAST_LINES:]
        left = MOST_LINES - self._lines
        self._lines += len(told)
        return told if len(told) <= left else [*told[:left], *(["and so on"] if left > 0 else [])]

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Whether it has ended by itself, waiting so long for it."""
        if self._status is None:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            if poll.poll(seconds * 1000):
                self._status = os.waitpid(self.pid, 0)[1]
        return self._status is not None

    def how_it_ended(self) -> str:
        """``passt was killed by SIGKILL`` with its last words; for one that has ended."""
        status = self._status or 0
        how = f"exited with {os.waitstatus_to_exitcode(status)}"
        if os.WIFSIGNALED(status):
            how = f"was killed by {name(os.WTERMSIG(status))}"
        self.read()
        said = "; ".join(self._last)
        return f"{self.program} {how}" + (f": {said}" if said else " without a word")

    def close(self) -> None:
        """Ask it to end, and see to it that it does.  Idempotent."""
        if self.pidfd < 0:
            return
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, -1)):
            if not self.has_ended():
                signal.pidfd_send_signal(self.pidfd, number)
                self.has_ended(patience)
        os.close(self.pidfd)
        os.close(self.errors)
        self.pidfd = -1


def start(
    owner: str,
    words: Sequence[str],
    keep: Iterable[int],
    *,
    fatal: bool = True,
    death: int = signal.SIGKILL,
    prepare: Callable[[], None] | None = None,
) -> Helper:
    """Start ``words[0]`` with the descriptors ``keep`` and no others.

    ``death``: the signal it gets when this process dies; ``prepare``: what the new process
    does to itself first.  Raises HostError.
    """
    errors, its_errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = spawn(words, keep, stdout=its_errors, stderr=its_errors, death=death, prepare=prepare)
    except BaseException:
        os.close(errors)
        raise
    finally:
        os.close(its_errors)
    return Helper(owner, words[0].rpartition("/")[2], pid, errors, fatal=fatal)


def has_landlock() -> bool:
    """Whether :func:`confine` can keep a program from files that are not its business."""
    return bool(lib.vmrun_landlock_rights())


def confine(program: str, files: Iterable[int]) -> None:
    """Called in the new process: it will open ``files`` (again) and the system's programs, nothing else.

    By Landlock, where the kernel has it; as root also without capabilities and network.
    Raises OSError.
    """
    top = "/" + os.path.realpath(program).split("/")[1]  # /nix, /opt, …
    folders = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in {*SYSTEM, top} if os.path.exists(path)]
    devices = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in DEVICES]
    writable = [*devices, *files]
    _check(lib.vmrun_weaken(1 << CAP_DAC_OVERRIDE))
    _check(lib.vmrun_open_only(folders, len(folders), writable, len(writable)))


def make_readonly(path: str) -> None:
    """Called in the new process: nothing below ``path`` can be changed by it.  Raises OSError."""
    _check(lib.vmrun_readonly_tree(os.fsencode(path)))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
