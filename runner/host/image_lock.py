"""One writer or many readers of a disk image, by OFD locks; the second user is told who holds it.

An OFD lock belongs to the open file description, so it lives exactly as long as somebody has the
image open: with the VM process, whatever becomes of us (fcntl(2), "Open file description locks").
"""

from __future__ import annotations

import fcntl
import os
import struct

from runner.errors import HostError

_FLOCK = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid


def lock(fd: int, path: str, *, exclusive: bool) -> None:
    """Take the lock or raise HostError with the holder's name."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        who = holders(fd)
        words = f"process {who[0][0]} ({who[0][1]})" if who else "another process"
        raise HostError(
            f"{path} is in use by {words}, and a disk has one writer",
            hint="vmrun ps lists running machines; ephemeral = true or readonly = true share an image",
        ) from None
    except OSError:
        return  # a file system without locks (some 9p and FUSE): nothing to promise


def holders(fd: int) -> list[tuple[int, str]]:
    """Processes that hold a lock on the same file: (pid, command line), as far as we may look."""
    state = os.fstat(fd)
    inode = f"{os.major(state.st_dev):02x}:{os.minor(state.st_dev):02x}:{state.st_ino}"
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [(int(name), _command(name)) for name in others if _locks(name, inode)]


def _locks(pid: str, inode: str) -> bool:
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fdinfo"):
            with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as info:
                if any(line.startswith("lock:") and inode in line for line in info):
                    return True
    except OSError:
        return False  # gone, or not ours to look at
    return False


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(200).rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "unknown"
