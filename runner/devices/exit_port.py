"""Port 0xf4: a byte written here is the guest's exit status, and ends the run.

The port is where QEMU's ``isa-debug-exit`` is usually put, but a whole byte arrives: that
device ends QEMU with ``status * 2 + 1``, which has no room for statuses above 127.  Under
QEMU the byte therefore leaves through a debug console on the character backend named
``exit_port``, and the engine ends QEMU when it comes.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import Attachment, Effect, ExitStatus, RegisterDevice
from runner.graph.model import Claim, Node, PortClaim
from runner.typed import Mapping

PORT = 0xF4


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One port."""
    return Claim(ports=(PortClaim(1, PORT, "exit status"),))


def build(node: Node, at: Attachment) -> ExitPort:
    """The port; nothing to connect."""
    return ExitPort()


def qemu(node: Node) -> tuple[str, ...]:
    """A debug console whose first byte is the status (``chardev=exit_port``)."""
    return ("-device", f"isa-debugcon,iobase={node.claim.ports[0].at:#x},readback=0,chardev=exit_port")


class ExitPort:
    """Reads as 0, so that a guest can tell it from a port that floats (0xff)."""

    def __init__(self) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)

    def read(self, offset: int, size: int) -> int:
        """Zero: the port is there."""
        return 0

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """One byte ends the run; wider writes are no status and do nothing."""
        return ExitStatus(value & 0xFF) if size == 1 else None
