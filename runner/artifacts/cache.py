"""The content-addressed cache: what was fetched or built once is found again by its hash.

Layout of ``$VMRUN_CACHE_DIR``, else ``$XDG_CACHE_HOME/vmrun``, else ``~/.cache/vmrun``::

    <kind>/<hash>    an entry, a file or a directory; complete, since it arrives by rename(2)
    notes/<name>     a small text that may change (which version a package name stood for)
    locks/<name>     flock(2)ed while an entry is made; a killed writer's lock goes with it
    tmp/<name>.<pid> what is being made; leftovers go when the next writer has the lock

An entry is on the disk before its name is (fsync, rename, fsync of the directory), so
whoever finds a name finds the whole.  A cache that cannot be written (a read-only root) is
still read, and new entries go to a private directory under ``$TMPDIR``.
"""

from __future__ import annotations

import os

from runner import folders
from runner.errors import HostError, HostIoError
from runner.light import contextmanager, suppress
from runner.typed import BinaryIO, Callable, Iterator

Tell = Callable[[str], None]
"""Told, in one line, what takes long: a download, another run's lock."""


def silent(_line: str) -> None:
    """The :data:`Tell` of somebody who does not want to know."""


def cache_root(environ: os._Environ[str] | dict[str, str] | None = None) -> str:
    """Where the cache is for this user."""
    env = os.environ if environ is None else environ
    chosen = env.get("VMRUN_CACHE_DIR", "")
    if chosen:
        return os.path.abspath(chosen)
    return os.path.join(folders.base("XDG_CACHE_HOME", ".cache", env), "vmrun")


class Cache:
    """One cache directory, and the overlay that takes new entries where it is read-only."""

    def __init__(self, root: str | None = None, overlay: str | None = None) -> None:
        self.root = cache_root() if root is None else root
        self._overlay = overlay
        self._write_root: str | None = None

    def roots(self) -> Iterator[str]:
        """Where to look, in order; the overlay only where this user cannot write the cache."""
        yield self.root
        if self.write_root != self.root:
            yield self.write_root

    @property
    def write_root(self) -> str:
        """Where new entries go."""
        if self._write_root is None:
            self._write_root = self.root if _writable(self.root) else self._private_overlay()
        return self._write_root

    @property
    def read_only(self) -> bool:
        """Whether new entries go to the overlay."""
        return self.write_root != self.root

    def _private_overlay(self) -> str:
        path = self._overlay or os.path.join(
            os.environ.get("TMPDIR") or "/tmp",  # noqa: S108 - owner checked below
            f"vmrun-cache-{os.geteuid()}",
        )
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"neither the cache {self.root} nor {path} can be written: {error.strerror}",
                hint="set VMRUN_CACHE_DIR to a directory that can be written",
            ) from error
        if not folders.is_ours_alone(path):
            raise HostError(
                f"{path} should take what the read-only cache {self.root} cannot, but it is not a"
                " directory that only this user can write",
                hint=f"remove {path}, or set VMRUN_CACHE_DIR",
            )
        return path

    def find(self, kind: str, key: str) -> str | None:
        """Path of a complete entry, or None."""
        for root in self.roots():
            path = os.path.join(root, kind, key)
            if os.path.lexists(path):
                return path
        return None

    def build(self, kind: str, key: str, make: Callable[[str], None], tell: Tell = silent) -> str:
        """Path of the entry; ``make(path)`` creates it, a file or a directory, if nobody has yet.

        Two processes that want the same entry make it once: the second waits for the first.
        """
        found = self.find(kind, key)
        if found is not None:
            return found
        with self.lock(f"{kind}-{key}", tell) as scratch, self._writing():
            found = self.find(kind, key)
            if found is not None:
                return found
            make(scratch)
            return self._settle(scratch, kind, key)

    def store(self, kind: str, name: str, write: Callable[[BinaryIO], None], suffix: str = "") -> str:
        """Keep what ``write(file)`` writes under the SHA-256 of it; ``name`` is for lock and scratch."""
        import hashlib

        with self.lock(f"{kind}-{name}") as scratch, self._writing():
            with open(scratch, "w+b") as file:
                write(file)
                file.seek(0)
                key = hashlib.file_digest(file, "sha256").hexdigest() + suffix
            return self.find(kind, key) or self._settle(scratch, kind, key)

    def discard(self, kind: str, key: str) -> None:
        """Remove a damaged entry, so that it is made anew."""
        with self.lock(f"{kind}-{key}"):
            for root in self.roots():
                path = os.path.join(root, kind, key)
                _remove(path)
                if os.path.lexists(path):
                    raise HostIoError(
                        f"{path} is damaged and cannot be removed", hint="remove it, or set VMRUN_CACHE_DIR"
                    )

    def note_path(self, name: str) -> str | None:
        """Where the text kept under ``name`` is; the overlay's is newer than a read-only cache's."""
        for root in reversed(tuple(self.roots())):
            path = os.path.join(root, "notes", name)
            if os.path.exists(path):
                return path
        return None

    def note(self, name: str) -> str | None:
        """A small text kept under ``name``; None if there is none."""
        path = self.note_path(name)
        try:
            with open(path or "", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return None

    def keep_note(self, name: str, text: str) -> None:
        """Replace the text kept under ``name``, atomically."""
        with self.lock(f"notes-{name}") as scratch, self._writing():
            with open(scratch, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
            self._settle(scratch, "notes", name)

    @contextmanager
    def lock(self, name: str, tell: Tell = silent) -> Iterator[str]:
        """Hold the lock ``name``; gives a scratch path that is free, and removed at the end."""
        root = self.write_root
        with self._writing():
            for part in ("locks", "tmp"):
                os.makedirs(os.path.join(root, part), exist_ok=True)
            path = os.path.join(root, "locks", name)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        scratch = os.path.join(root, "tmp", f"{name}.{os.getpid()}")
        try:
            if _acquire(descriptor, name, tell):
                _sweep(os.path.join(root, "tmp"), name)
            yield scratch
        finally:
            _remove(scratch)
            os.close(descriptor)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """An OSError in here is the cache's: whoever reads other files tells their errors himself."""
        try:
            yield
        except OSError as error:
            what = f" ({error.filename})" if error.filename else ""
            raise HostIoError(
                f"the cache {self.write_root} cannot be written: {error.strerror or error}{what}",
                hint="make room there, or set VMRUN_CACHE_DIR to another directory",
            ) from error

    def _settle(self, scratch: str, kind: str, key: str) -> str:
        """Put a finished entry on the disk, then give it its name."""
        folder = os.path.join(self.write_root, kind)
        os.makedirs(folder, exist_ok=True)
        _flush(scratch)
        final = os.path.join(folder, key)
        try:
            os.rename(scratch, final)
        except OSError:
            if not os.path.isdir(final):  # without locks (some network file systems) another was first
                raise
        _fsync(folder)
        return final


def _writable(root: str) -> bool:
    """Whether entries can be made below ``root``, which may not exist yet."""
    path = root
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _acquire(descriptor: int, name: str, tell: Tell) -> bool:
    """flock; False where the file system has no locks (entries still arrive whole)."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(f"another run is making {name}; waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _sweep(folder: str, name: str) -> None:
    """Remove what killed writers of ``name`` left; the caller has the lock, so none lives."""
    for leftover in os.listdir(folder):
        if leftover.rpartition(".")[0] == name:
            _remove(os.path.join(folder, leftover))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(FileNotFoundError):
        os.unlink(path)


def _flush(path: str) -> None:
    """fsync a file; for a tree one syncfs(2), since thousands of fsyncs take minutes."""
    if os.path.isdir(path):
        import ctypes

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
        finally:
            os.close(descriptor)
    else:
        _fsync(path)


def _fsync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
