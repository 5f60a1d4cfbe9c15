"""Writing cpio archives as the kernel unpacks them: the "newc" format.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.  The same tree
gives the same bytes: owner 0, time 0, inode numbers by order, paths sorted.
"""

from __future__ import annotations

import os
import stat

from runner.errors import HostError, HostIoError
from runner.typed import BinaryIO, Iterator, NamedTuple

_MAX_SIZE = 0xFFFF_FFFF  # c_filesize: eight hexadecimal digits
_CHUNK = 1 << 20  # bytes copied at a time


class Entry(NamedTuple):
    """One member.  ``mode`` has the S_IFMT bits; a file's bytes are ``data`` or those of ``source``."""

    mode: int
    data: bytes = b""  # contents of a file, target of a symbolic link
    source: str | None = None  # a file of this host, copied while writing
    device: tuple[int, int] = (0, 0)  # major, minor of a device node


class Tree:
    """What an archive will hold: guest path (no leading slash) to entry, parents made as needed."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def add(self, path: str, entry: Entry) -> None:
        """Put ``entry`` at a guest path; what was there is replaced, but never by another type."""
        name = guest_path(path)
        self._add_parents(name)
        old = self._entries.get(name)
        if old is not None and stat.S_IFMT(old.mode) != stat.S_IFMT(entry.mode):
            raise HostError(f"the initramfs would need /{name} to be {_type(old)} and {_type(entry)} at once")
        self._entries[name] = entry

    def _add_parents(self, name: str) -> None:
        parent = os.path.dirname(name)
        if not parent:
            return
        self._add_parents(parent)
        old = self._entries.setdefault(parent, Entry(stat.S_IFDIR | 0o755))
        if not stat.S_ISDIR(old.mode):
            raise HostError(
                f"the initramfs would need /{parent} to be {_type(old)} and, for /{name}, a directory"
            )

    def __contains__(self, path: str) -> bool:
        return guest_path(path) in self._entries

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Sorted, so that a directory comes before what is in it."""
        return iter(sorted(self._entries.items()))

    def write(self, out: BinaryIO) -> None:
        """Write the whole archive, trailer included, padded to 512 bytes as cpio programs do."""
        size = 0
        for number, (name, entry) in enumerate(self, start=1):
            size += _write_member(out, number, name, entry)
        size += _write_header(out, 0, 0, 1, 0, (0, 0), "TRAILER!!!")
        out.write(bytes(-size % 512))


def guest_path(path: str) -> str:
    """A guest path without its leading slash; ``.``, ``..`` and NUL are refused."""
    parts = [part for part in path.split("/") if part]
    if not parts or "." in parts or ".." in parts or "\0" in path or len(path) > 4095:
        raise HostError(f"{path!r} is not a path that an initramfs can hold")
    return "/".join(parts)


def _type(entry: Entry) -> str:
    if stat.S_ISDIR(entry.mode):
        return "a directory"
    if stat.S_ISLNK(entry.mode):
        return "a symbolic link"
    return "a file" if stat.S_ISREG(entry.mode) else "a device"


def _write_member(out: BinaryIO, number: int, name: str, entry: Entry) -> int:
    if entry.source is None:
        size = _write_header(out, number, entry.mode, _links(entry), len(entry.data), entry.device, name)
        out.write(entry.data)
        return size + len(entry.data) + _pad(out, len(entry.data))
    with _open(entry.source) as file:
        length = os.fstat(file.fileno()).st_size
        size = _write_header(out, number, entry.mode, _links(entry), length, entry.device, name)
        _copy(file, out, length, entry.source)
    return size + length + _pad(out, length)


def _open(source: str) -> BinaryIO:
    try:
        return open(source, "rb")
    except OSError as error:
        raise HostIoError(f"{source}, wanted in the initramfs, cannot be read: {error.strerror}") from error


def _links(entry: Entry) -> int:
    return 2 if stat.S_ISDIR(entry.mode) else 1


def _write_header(
    out: BinaryIO, number: int, mode: int, links: int, size: int, device: tuple[int, int], name: str
) -> int:
    """The header and the name, padded to four bytes; returns how many bytes that is."""
    if size > _MAX_SIZE:
        raise HostError(f"/{name} has {size:#x} bytes; a member of an initramfs has at most {_MAX_SIZE:#x}")
    raw = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, *device, len(raw), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    out.write(header)
    return len(header) + _pad(out, len(header))


def _pad(out: BinaryIO, size: int) -> int:
    padding = -size % 4
    out.write(bytes(padding))
    return padding


def _copy(file: BinaryIO, out: BinaryIO, length: int, source: str) -> None:
    left = length
    while left:
        piece = file.read(min(left, _CHUNK))
        if not piece:
            raise HostIoError(f"{source} became shorter while it was copied into the initramfs")
        out.write(piece)
        left -= len(piece)
