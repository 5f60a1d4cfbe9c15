"""The bytes of a definition: out of a file, or out of a pipe (``vmrun check <(generate)``)."""

from __future__ import annotations

import os

from runner.typed import NoReturn

LARGEST = 16 << 20  # a definition is read by people; what is larger is some other file
PATIENCE = 3000  # ms until somebody writes into a named pipe


def read_file(path: str) -> bytes:
    """The file's bytes.  Raises UsageError (no such file), HostPermissionError or HostIoError."""
    if not path:
        from runner.errors import UsageError

        raise UsageError("an empty word stands where a file is to be named")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            _wait_for_writer(fd, path)
            return _read(file.read, path)
    except (OSError, ValueError) as error:
        _refuse(path, error)


def _read(read, path: str) -> bytes:  # type: ignore[no-untyped-def]
    """Everything up to the end, or to the limit."""
    found = b""
    while len(found) <= LARGEST:
        more = read(LARGEST + 1)
        if not more:
            return found
        found += more
    from runner.errors import UsageError

    raise UsageError(f"{path}: larger than {LARGEST >> 20} MiB: this is no definition")


def _wait_for_writer(fd: int, path: str) -> None:
    """A pipe is read as it comes; one that nobody writes into is not waited for without end."""
    import stat

    os.set_blocking(fd, True)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(PATIENCE):
        from runner.errors import UsageError

        raise UsageError(f"{path}: a pipe that nobody writes into")


def _refuse(path: str, error: OSError | ValueError) -> NoReturn:
    from runner.errors import HostIoError, HostPermissionError, UsageError

    words = (getattr(error, "strerror", None) or str(error)).lower()
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        words = f"a link to {os.readlink(path)}, which does not exist"
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        raise UsageError(f"{path}: {words}", hint=nearby(path)) from None
    if isinstance(error, PermissionError):
        raise HostPermissionError(f"{path}: this user may not read it", hint=f"ls -l {path}") from None
    raise HostIoError(f"{path}: cannot be read: {words}") from None


def nearby(path: str) -> str:
    """A sentence with a definition of a like name beside ``path``, or ""."""
    from runner.definition.words import closest

    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return ""
    stems = [one.removesuffix(".toml") for one in names if one.endswith(".toml") and one != name]
    near = closest(name.removesuffix(".toml"), stems)
    return f"did you mean {os.path.join(folder, near)}.toml?" if near else ""
