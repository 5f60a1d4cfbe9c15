"""What a transaction touches of the host, as one value; a test puts a model of a kernel here."""

from __future__ import annotations

from runner.host.passthrough.state import state_folder
from runner.host.passthrough.users import block_user, group_user
from runner.host.sysfs import HostSysfs, Sysfs
from runner.typed import Callable, NamedTuple


class Host(NamedTuple):
    """``folder`` is where the journals lie; the two functions tell who uses a group or a disk."""

    sysfs: Sysfs
    folder: str
    group_user: Callable[[int | None], str] = group_user
    block_user: Callable[[str], str] = block_user


def this_host() -> Host:
    """The host itself."""
    return Host(HostSysfs(), state_folder())
