"""What was, written down and fsynced before it is changed.

One file a transaction.  Its owner keeps it open and locked (flock); the VM process inherits
the descriptor, so the lock is free exactly when nobody who uses the devices is alive.
The file appears by rename, so it is whole or it is not there.
"""

from __future__ import annotations

import os

from runner.errors import HostIoError
from runner.host.passthrough.state import try_lock
from runner.host.sysfs import Sysfs, text_or
from runner.hostfacts import is_address
from runner.light import suppress
from runner.typed import Any, Iterator, NamedTuple, Sequence

FORMAT = 1
_SUFFIX = ".json"
_MOST = 1 << 20  # bytes that are read of one


class Binding(NamedTuple):
    """A function's driver and override at one moment; "" for none."""

    address: str
    driver: str
    override: str
    group: int | None


class Journal(NamedTuple):
    """One transaction.  ``keep``: ``vmrun host bind`` has done it; it lasts until undone by hand."""

    vm: str
    pid: int
    started: int  # the owner's start time in clock ticks since boot, /proc/PID/stat field 22
    boot: str  # the boot that the bindings belong to
    keep: bool
    bindings: tuple[Binding, ...]


class JournalFile(NamedTuple):
    """A journal that is open and locked by us."""

    path: str
    fd: int

    def remove(self) -> None:
        """The transaction is over: forget it, for good.

        One that cannot be removed is followed once more by the next start, which finds it all done.
        """
        with suppress(OSError):
            os.unlink(self.path)
            _sync_folder(os.path.dirname(self.path))
        os.close(self.fd)

    def leave(self) -> None:
        """Let go of the lock and keep the file for whoever finishes the work."""
        os.close(self.fd)


class Found(NamedTuple):
    """A journal in the folder.  ``file`` None: its owner lives.  ``journal`` None: unreadable."""

    path: str
    journal: Journal | None
    file: JournalFile | None


def boot_id(sysfs: Sysfs) -> str:
    """The random name of this boot."""
    return text_or(sysfs, "/proc/sys/kernel/random/boot_id")


def start_time(sysfs: Sysfs, pid: int) -> int:
    """Clock ticks since boot at which a process began; 0 when there is none."""
    fields = _status(sysfs, pid)
    return int(fields[19]) if len(fields) > 19 else 0


def owner_lives(sysfs: Sysfs, journal: Journal) -> bool:
    """Whether the process that began it goes on; one that waits to be reaped does not."""
    if not journal.started:
        return True  # nobody can tell
    fields = _status(sysfs, journal.pid)
    return len(fields) > 19 and int(fields[19]) == journal.started and fields[0] not in ("Z", "X")


def _status(sysfs: Sysfs, pid: int) -> list[str]:
    """/proc/PID/stat from its third field on, which is the state (proc(5))."""
    return text_or(sysfs, f"/proc/{pid}/stat").rpartition(")")[2].split()


def begin(sysfs: Sysfs, folder: str, vm: str, bindings: Sequence[Binding]) -> JournalFile:
    """Write a journal and make it durable.  Raises HostIoError, and then nothing was changed."""
    pid = os.getpid()
    journal = Journal(vm, pid, start_time(sysfs, pid), boot_id(sysfs), False, tuple(bindings))
    name = f"{pid}-{os.urandom(4).hex()}{_SUFFIX}"
    try:
        return _write(folder, name, _encode(journal))
    except OSError as error:
        raise HostIoError(
            f"the journal {folder}/{name} cannot be written: {error.strerror}; no driver was changed",
            hint="make room there, or set VMRUN_STATE_DIR",
        ) from error


def keep(file: JournalFile) -> JournalFile:
    """All is done that it speaks of, and is to last: no start undoes it from here on.  Raises HostIoError."""
    journal = _decode(os.pread(file.fd, _MOST, 0))
    folder, name = os.path.split(file.path)
    try:
        assert journal is not None, "we have written it ourselves"
        kept = _write(folder, name, _encode(journal._replace(keep=True)), replaces=True)
    except OSError as error:
        words = f"the journal {file.path} cannot be written: {error.strerror}"
        raise HostIoError(words, hint="make room there, or set VMRUN_STATE_DIR") from error
    os.close(file.fd)
    return kept


def _write(folder: str, name: str, data: bytes, *, replaces: bool = False) -> JournalFile:
    """Under its name it is whole and locked; one that it replaces is whole until then."""
    part = f"{folder}/{name}.part"
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try_lock(fd)
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
        os.rename(part, f"{folder}/{name}")
        _sync_folder(folder)
    except OSError:
        os.close(fd)
        for path in (part,) if replaces else (part, f"{folder}/{name}"):
            with suppress(OSError):
                os.unlink(path)
        raise
    return JournalFile(f"{folder}/{name}", fd)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def journals(folder: str) -> Iterator[Found]:
    """Every journal; one whose owner is dead comes open and locked.  Call under the StateLock.

    Raises HostIoError for one that cannot be opened: what it speaks of must not be touched.
    """
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = f"{folder}/{name}"
        try:
            if name.endswith(".part"):
                os.unlink(path)  # its writer died before anything was changed
            elif name.endswith(_SUFFIX):
                yield _found(path)
        except OSError as error:
            words = f"the journal {path} cannot be read: {error.strerror}; no driver was changed"
            raise HostIoError(words, hint="look at it, then remove it") from error


def _found(path: str) -> Found:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    journal = _decode(os.pread(fd, _MOST, 0))
    if try_lock(fd):
        return Found(path, journal, JournalFile(path, fd))
    os.close(fd)
    return Found(path, journal, None)


def living(folder: str) -> dict[str, Journal]:
    """Addresses of functions that living runs have, and who they are.  Call under the StateLock."""
    lent: dict[str, Journal] = {}
    for found in journals(folder):
        if found.file:
            found.file.leave()
        elif found.journal:
            lent.update(dict.fromkeys((one.address for one in found.journal.bindings), found.journal))
    return lent


def _encode(journal: Journal) -> bytes:
    import json

    row: dict[str, Any] = {"format": FORMAT, **journal._asdict()}
    row["bindings"] = [binding._asdict() for binding in journal.bindings]
    return (json.dumps(row, indent=1) + "\n").encode()


def _decode(data: bytes) -> Journal | None:
    """None for anything but a journal of this version: what a file says may be anything."""
    import json

    try:
        row = json.loads(data)
        if row.pop("format") != FORMAT:
            return None
        bindings = tuple(Binding(**each) for each in row.pop("bindings"))
        journal = Journal(bindings=bindings, **row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return journal if _is_sound(journal) and all(map(_names_a_function, journal.bindings)) else None


def _is_sound(journal: Journal) -> bool:
    numbers, words = (journal.pid, journal.started), (journal.vm, journal.boot)
    return all(type(one) is int for one in numbers) and all(type(one) is str for one in words) and (
        type(journal.keep) is bool
    )  # fmt: skip


def _names_a_function(one: Binding) -> bool:
    """The words become parts of paths that are written to, and what is written there."""
    words = (one.address, one.driver, one.override)
    if not all(type(word) is str for word in words) or not is_address(one.address):
        return False
    plain = not any(mark in word for word in words[1:] for mark in ("/", "\n", "\0"))
    return plain and one.driver not in (".", "..") and (one.group is None or type(one.group) is int)
