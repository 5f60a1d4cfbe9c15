"""Which machines of this user run now: a folder for each, and a lock that tells live from stale.

``$XDG_RUNTIME_DIR/vmrun/NAME/`` holds ``lock``, ``run.json`` and ``control.sock``.  The lock
is an OFD lock (fcntl(2)): it goes with its holder however that ends, and unlike a pid it
cannot be mistaken for somebody else's.  What a killed run has left is replaced.
"""

from __future__ import annotations

import fcntl
import os
import struct
from errno import EACCES, EAGAIN

from runner.errors import HostError, HostIoError, HostPermissionError
from runner.folders import is_ours_alone
from runner.light import suppress
from runner.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.definition.model import Json

_FLOCK = struct.Struct("hh4xqqi4x")  # struct flock, x86-64: l_type l_whence l_start l_len l_pid
LOCK, RUN, CONTROL = "lock", "run.json", "control.sock"
MOST_OF_A_NAME = 100


class Live(NamedTuple):
    """A machine that runs now."""

    name: str
    folder: str
    about: Mapping[str, Json]  # what run.json says; empty in the first moments

    @property
    def control(self) -> str:
        """Path of its control socket."""
        return os.path.join(self.folder, CONTROL)


def runtime_folder() -> str:
    """``$XDG_RUNTIME_DIR/vmrun``, made if need be; only ours and only for us.

    Without the variable: ``/run/user/UID``, else ``/tmp/vmrun-UID``.  Raises HostError.
    """
    uid = os.geteuid()
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if not os.path.isabs(base):
        base = f"/run/user/{uid}"
    shared = not is_ours_alone(base)
    folder = f"/tmp/vmrun-{uid}" if shared else os.path.join(base, "vmrun")  # noqa: S108  # checked below
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise HostIoError(f"cannot make {folder}: {error.strerror}", hint="set XDG_RUNTIME_DIR") from None
    if not is_ours_alone(folder):
        raise HostPermissionError(
            f"{folder} is not a folder of ours alone", hint="remove it, or set XDG_RUNTIME_DIR"
        )
    return folder


class Registration:
    """This run's folder, held until :meth:`release`."""

    def __init__(self, name: str, folder: str, lock: int) -> None:
        self.name = name
        self.folder = folder
        self._lock = lock

    @property
    def control(self) -> str:
        """Path for the control socket."""
        return os.path.join(self.folder, CONTROL)

    def describe(self, about: Mapping[str, Json]) -> None:
        """What ``vmrun ps`` shows; complete or not there at all."""
        import json

        draft = os.path.join(self.folder, RUN + ".new")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(about, file)
        os.rename(draft, os.path.join(self.folder, RUN))

    def release(self) -> None:
        """Remove the folder and let the lock go.  Idempotent."""
        if self._lock < 0:
            return
        for name in (CONTROL, RUN, RUN + ".new", LOCK):
            with suppress(OSError):
                os.unlink(os.path.join(self.folder, name))
        with suppress(OSError):
            os.rmdir(self.folder)
        os.close(self._lock)
        self._lock = -1


def register(name: str, *, exact: bool, base: str | None = None) -> Registration:
    """Take ``name``.  When it is taken: ``name-2`` and so on, or an error if it has to be ``exact``."""
    base = base or runtime_folder()
    wanted = safe_name(name)
    for number in range(1, 1000):
        candidate = wanted if number == 1 else f"{wanted}-{number}"
        taken = _take(candidate, os.path.join(base, candidate))
        if taken is not None:
            return taken
        if exact:
            holder = _holder(os.path.join(base, candidate))
            raise HostError(
                f"a machine named `{candidate}` runs already (process {holder})",
                hint=f"stop it with `vmrun stop {candidate}`, or give this one another --name",
            )
    raise HostError(f"a thousand machines are named `{wanted}`")


def safe_name(name: str) -> str:
    """A file name and a word of a command line: letters, digits, ``.``, ``_`` and ``-``."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return kept.lstrip(".-")[:MOST_OF_A_NAME] or "vm"


def live(base: str | None = None) -> list[Live]:
    """Machines of this user that run now, by name; stale folders are passed over."""
    base = base or runtime_folder()
    found = []
    for name in sorted(os.listdir(base)):
        folder = os.path.join(base, name)
        if _holder(folder):
            found.append(Live(name, folder, _about(folder)))
    return found


def _take(name: str, folder: str) -> Registration | None:
    """The lock of one folder, or None when somebody has it."""
    while True:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        path = os.path.join(folder, LOCK)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # its last holder removed the folder just now
            continue
        try:
            fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            os.close(lock)
            if error.errno in (EACCES, EAGAIN):
                return None
            raise HostIoError(f"cannot lock {path}: {error.strerror}") from None
        if _same_file(lock, path):
            break
        os.close(lock)  # we have locked a file that was being removed
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    for leftover in (CONTROL, RUN):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, leftover))
    return Registration(name, folder, lock)


def _same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(folder: str) -> int:
    """Pid of the run that holds the folder; 0 when nobody does.  Takes no lock itself."""
    try:
        lock = os.open(os.path.join(folder, LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = _FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_OFD_GETLK, asked))
        if answer[0] == fcntl.F_UNLCK:
            return 0
        return int(os.pread(lock, 20, 0) or b"1")
    finally:
        os.close(lock)


def _about(folder: str) -> Mapping[str, Json]:
    import json

    try:
        with open(os.path.join(folder, RUN), encoding="utf-8") as file:
            about = json.load(file)
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
