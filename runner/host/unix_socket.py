"""Unix stream sockets as plain descriptors.

``_socket`` is the C half of the standard ``socket`` module; the other half costs four
milliseconds of start-up (selectors, enum conversions) and adds nothing that is needed here.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket
from errno import EADDRINUSE, ECONNREFUSED, ENOENT

from runner.light import contextmanager
from runner.typed import Iterator

SUN_PATH = 107
"""Bytes a socket path can have (unix(7): sun_path is 108 with its NUL)."""


@contextmanager
def _short(path: str) -> Iterator[str]:
    """``path``, or when it is too long for an address the same file by way of its open folder."""
    if len(os.fsencode(path)) <= SUN_PATH:
        yield path
        return
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def pair() -> tuple[int, int]:
    """A connected pair; the first end does not block, the second does."""
    from _socket import socketpair

    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    ours.setblocking(False)
    return ours.detach(), theirs.detach()


def listen(path: str, backlog: int = 8) -> int:
    """A listening, non-blocking socket at ``path``, for the owner only.  Raises OSError."""
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    mask = os.umask(0o177)
    try:
        with _short(path) as short:
            listener.bind(short)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener.detach()


def listen_again(path: str) -> int:
    """Like :func:`listen`, replacing a socket file that nobody listens at; EADDRINUSE when somebody does."""
    import stat

    try:
        return listen(path)
    except OSError as error:
        if error.errno != EADDRINUSE or not stat.S_ISSOCK(os.lstat(path).st_mode) or is_live(path):
            raise
    os.unlink(path)
    return listen(path)


def accept(listener: int) -> int | None:
    """The next connection, non-blocking; None when there is none (any more)."""
    sock = socket(fileno=listener)
    try:
        fd: int = sock._accept()[0]  # type: ignore[attr-defined]
    except (BlockingIOError, ConnectionAbortedError):
        return None
    finally:
        sock.detach()
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    return fd


def connect(path: str) -> int:
    """A blocking connection to ``path``.  Raises OSError."""
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)
    try:
        with _short(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock.detach()


def try_connect(path: str) -> int | None:
    """A connection to ``path`` if somebody takes it at once, else None; never blocks."""
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    try:
        with _short(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        return None
    return sock.detach()


def rendezvous() -> tuple[int, int]:
    """(listener, connection): a listening socket with one connection to it, and no way to a second.

    For a program that takes a listening socket only: its address was in a folder that only we
    may enter, and is gone already.  Raises OSError.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="vmrun-") as folder:
        listener = listen(f"{folder}/socket")
        try:
            return listener, connect(f"{folder}/socket")
        except OSError:
            os.close(listener)
            raise


def peer(fd: int) -> tuple[int, int]:
    """(pid, uid) of the other end, as the kernel saw it when it connected (SO_PEERCRED)."""
    sock = socket(fileno=fd)
    try:
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
    finally:
        sock.detach()
    return pid, uid


def is_live(path: str) -> bool:
    """Whether somebody listens at ``path``; a socket file that a killed process left is not live."""
    try:
        os.close(connect(path))
    except OSError as error:
        if error.errno in (ECONNREFUSED, ENOENT):
            return False
        raise
    return True
