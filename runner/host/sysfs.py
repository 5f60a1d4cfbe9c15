"""The files in which Linux tells of itself: /sys, /proc, /dev, behind one small Protocol.

Everything that reads or changes the host's devices goes through :class:`Sysfs`, so a test
can put a made-up tree, or a model of the kernel's driver core, in the place of the host.
Paths are absolute, as on the host; the text of a file comes without its last newline.
"""

from __future__ import annotations

import os

from runner.typed import Protocol

_CHUNK = 1 << 16


class Sysfs(Protocol):
    """Reads and writes attribute files.  Every method but ``exists`` raises OSError."""

    def read(self, path: str) -> str:
        """The whole text, without white space at its ends."""

    def read_bytes(self, path: str) -> bytes:
        """The whole content."""

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer where the file ends."""

    def write(self, path: str, text: str) -> None:
        """One write(2) of ``text`` to a file that exists."""

    def readlink(self, path: str) -> str:
        """The last component of what the link points to: the name of a driver or group."""

    def realpath(self, path: str) -> str:
        """The path with every link resolved; never fails."""

    def listdir(self, path: str) -> list[str]:
        """Names in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """Whether the path leads to something."""


class HostSysfs:
    """The host's own files, or a tree that looks like them below ``root``."""

    def __init__(self, root: str = "/") -> None:
        self.root = "" if root == "/" else os.path.realpath(root)

    def read_bytes(self, path: str) -> bytes:
        fd = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, _CHUNK):
                parts.append(part)
        finally:
            os.close(fd)
        return b"".join(parts)

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        fd = os.open(self.root + path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def read(self, path: str) -> str:
        return self.read_bytes(path).decode("utf-8", "replace").strip()

    def write(self, path: str, text: str) -> None:
        fd = os.open(self.root + path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def readlink(self, path: str) -> str:
        return os.readlink(self.root + path).rpartition("/")[2]

    def realpath(self, path: str) -> str:
        real = os.path.realpath(self.root + path)
        return real[len(self.root) :] if real.startswith(self.root + "/") else real

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self.root + path))

    def exists(self, path: str) -> bool:
        return os.path.exists(self.root + path)


def text_or(sysfs: Sysfs, path: str, default: str = "") -> str:
    """The text of a file, or ``default`` where there is none or it cannot be read."""
    try:
        return sysfs.read(path)
    except OSError:
        return default


def int_or(sysfs: Sysfs, path: str, default: int = 0) -> int:
    """The number in a file (decimal, or hex with 0x), or ``default``."""
    try:
        return int(sysfs.read(path), 0)
    except (OSError, ValueError):
        return default


def link_or(sysfs: Sysfs, path: str, default: str = "") -> str:
    """The name a link leads to, or ``default`` where there is no link."""
    try:
        return sysfs.readlink(path)
    except OSError:
        return default


def names_or(sysfs: Sysfs, path: str) -> list[str]:
    """Names in a directory; empty where there is none."""
    try:
        return sysfs.listdir(path)
    except OSError:
        return []
