"""Who uses a device right now, asked of the kernel and not of the facts."""

from __future__ import annotations

import errno
import os
import time

from runner.light import suppress
from runner.typed import Iterator

GROUP_SECONDS = 5.0


def group_user(group: int | None, seconds: float = GROUP_SECONDS) -> str:
    """ "" once nobody has /dev/vfio/GROUP open (a killed VM needs a moment), else who has it.

    A group can be opened once, so an open answers; unbinding under a user would block.
    """
    path = f"/dev/vfio/{group}"
    until = time.monotonic() + seconds
    while _is_busy(path):
        if time.monotonic() > until:
            return holder_of(path)
        time.sleep(0.05)
    return ""


def _is_busy(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def holder_of(path: str) -> str:
    """The process that has ``path`` open: "process 812 (qemu-system-x86)"."""
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        if any(link.endswith(path) for link in _open_files(pid)):
            with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                return f"process {pid} ({comm.read().strip()})"  # or it has ended since
    return "a process of another user"


def _open_files(pid: str) -> Iterator[str]:
    """What its descriptors are; in another root a path has something before it."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # closed since
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return  # it has ended, or is not ours to look into


def block_user(node: str) -> str:
    """Whether a block device is claimed (mounted, swap, dm, md, ZFS …): "" or the words for it.

    An exclusive open fails then with EBUSY, also for users that sysfs does not tell of.
    """
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return f"{node} is in use" if error.errno == errno.EBUSY else ""
    return ""
