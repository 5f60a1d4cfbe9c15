"""From the graph's words about booting to files on this host.

The second time the same words come, nothing is asked or built: one small record in the
cache says what was made of them, with the size and times of every file that decided it, and
a few stat calls tell that nothing has changed.  So this module imports next to nothing, and
the rest of the room only when there is work.
"""

from __future__ import annotations

import os
from binascii import crc32

from runner.artifacts.cache import Cache, Tell, silent
from runner.definition.model import InitramfsFile
from runner.errors import DefinitionError, HostIoError
from runner.graph.model import Boot, BootFiles
from runner.typed import TYPE_CHECKING, Iterable

if TYPE_CHECKING:
    from runner.artifacts.kernel import KernelArtifact

REVISION = 3
"""Raised when the same inputs give other files than before, so that old records are not believed."""

_SETTLED_NS = 100_000_000  # a file changed less than this ago could change again with the same times


def fetch(boot: Boot, cache: Cache | None = None, *, refresh: bool = False, tell: Tell = silent) -> BootFiles:
    """The files to boot from; made, fetched or built where they are not there yet.

    ``refresh`` asks apt anew what a package name stands for.  ``tell`` hears of what takes
    long.  Raises DefinitionError or HostError.
    """
    cache = cache or Cache()
    words = repr((REVISION, boot.kernel, boot.initramfs))
    name = f"{crc32(words.encode()):08x}"  # a collision only costs time: the record repeats the words
    known = None if refresh else _recall(cache, name, words)
    if known is not None:
        return known
    with cache.lock(f"prepare-{name}", tell):
        known = None if refresh else _recall(cache, name, words)  # made while we waited
        return known or _prepare(boot, cache, name, words, refresh, tell)


def _prepare(boot: Boot, cache: Cache, name: str, words: str, refresh: bool, tell: Tell) -> BootFiles:
    """Make everything, and leave a record."""
    import time

    from runner.artifacts.kernel import bootable, fetch_kernel

    began = time.time_ns()
    if boot.kernel is None:
        raise DefinitionError(
            "the definition names no kernel", hint='kernel = { deb = "linux-image-cloud-amd64" }'
        )
    kernel = fetch_kernel(boot.kernel, cache, refresh=refresh, tell=tell)
    image, lasting, doubts = bootable(kernel, cache, REVISION, tell)
    notes = [f"kernel: {kernel.description}", *doubts]
    initramfs, inputs = _initramfs(boot, kernel, cache, name, tell)
    if cache.read_only:
        notes.append(f"the cache {cache.root} is read-only; what is new is kept in {cache.write_root}")
    files = BootFiles(image, kernel.path, initramfs, tuple(notes))
    if lasting:
        decided = [*kernel.inputs, *inputs, *(path for path in files[:3] if path)]
        decided.extend(path for note in kernel.notes if (path := cache.note_path(note)))
        _record(cache, name, words, files, decided, began)
    return files


def _initramfs(
    boot: Boot, kernel: KernelArtifact, cache: Cache, name: str, tell: Tell
) -> tuple[str | None, tuple[str, ...]]:
    """Path of the initramfs, and the host files that decided it."""
    if boot.initramfs is None:
        return None, ()
    if isinstance(boot.initramfs, InitramfsFile):
        path = boot.initramfs.path
        if not os.access(path.resolved, os.R_OK):
            why = "cannot be read" if os.path.exists(path.resolved) else "does not exist"
            raise HostIoError(f"the initramfs {path.text} {why}")
        return path.resolved, ()
    from runner.artifacts.initramfs import build

    built = build(boot.initramfs, kernel, cache, name, tell)
    return built.path, built.inputs


def _stamp(path: str) -> str:
    """Size and times, which change when the file does; ctime is not the user's to set."""
    try:
        found = os.stat(path)
    except OSError:
        return "-"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _record(
    cache: Cache, name: str, words: str, files: BootFiles, decided: Iterable[str], began: int
) -> None:
    """Remember what was made, unless an input changed while or just before it was read.

    The record is strings between NULs, which no path contains, and a checksum, since a record
    that was cut off would ask for fewer stamps than it should.
    """
    stamps: list[str] = []
    for path in dict.fromkeys(decided):
        stamp = _stamp(path)
        times = stamp.split()[1:]
        ours = path.startswith(os.path.join(cache.write_root, ""))
        if not times or (not ours and max(map(int, times)) > began - _SETTLED_NS):
            return
        stamps += (path, stamp)
    made = (files.kernel, files.kernel_given, files.initramfs or "")
    fields = (words, *made, str(len(files.notes)), *files.notes, *stamps)
    body = "\0".join(fields)
    cache.keep_note(f"prepared-{name}", f"{body}\0{_checksum(body)}")


def _checksum(body: str) -> str:
    return f"{crc32(os.fsencode(body)):08x}"


def _recall(cache: Cache, name: str, words: str) -> BootFiles | None:
    """What the record says, if it is of these words and every stamp still holds."""
    body, _, checksum = (cache.note(f"prepared-{name}") or "").rpartition("\0")
    fields = body.split("\0")
    if fields[0] != words or checksum != _checksum(body):
        return None
    after = 5 + int(fields[4])
    stamps = fields[after:]
    if any(_stamp(path) != stamp for path, stamp in zip(stamps[::2], stamps[1::2], strict=True)):
        return None
    return BootFiles(fields[1], fields[2], fields[3] or None, tuple(fields[5:after]))
