"""Writing to a standard output that we share with others, and never blocking on it.

O_NONBLOCK belongs to the open file description, which the shell and the other processes
of a pipeline share, so it must not be set there.  A terminal or a pipe is opened once
more through ``/proc/self/fd``: the new description is ours.  A socket takes a flag with
each send.  Where the second open is refused (a terminal of another user after ``su``),
bytes go in small pieces, each after poll has said that there is room.
"""

from __future__ import annotations

import os
import stat
from errno import EPIPE
from select import POLLERR, POLLHUP, POLLOUT, poll

from runner.supervisor.outlet import Write
from runner.typed import Callable

ATOMIC_PIPE = 4096  # pipe(7): PIPE_BUF; a writable pipe has room for this much
ATOMIC_TTY = 64


def patient(fd: int, piece: int) -> Write:
    """Small writes, each after poll: for a description that cannot be made non-blocking."""
    poller = poll()
    poller.register(fd, POLLOUT)

    def write(data: bytes) -> int:
        ready = poller.poll(0)
        if not ready:
            return 0
        if ready[0][1] & (POLLERR | POLLHUP):
            raise BrokenPipeError(EPIPE, os.strerror(EPIPE))
        return os.write(fd, data[:piece])

    return write


def _through_socket(fd: int) -> Write:
    from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, socket

    sock = socket(fileno=os.dup(fd))

    def write(data: bytes) -> int:
        return sock.send(data, MSG_DONTWAIT | MSG_NOSIGNAL)

    return write


def writer(fd: int) -> tuple[int, Write, Callable[[], None]]:
    """(descriptor to poll, how to write to it, how to give it back)."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return fd, _through_socket(fd), lambda: None
    if not (stat.S_ISFIFO(mode) or os.isatty(fd)):
        return fd, lambda data: os.write(fd, data), lambda: None
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # another user's terminal, no /proc, or a pipe that nobody reads (ENXIO)
        return fd, patient(fd, ATOMIC_PIPE if stat.S_ISFIFO(mode) else ATOMIC_TTY), lambda: None
    return own, lambda data: os.write(own, data), lambda: os.close(own)
