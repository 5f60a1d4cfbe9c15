"""Bochs' debug console: each byte written to port 0xe9 is shown, reading 0xe9 tells it is there."""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import Attachment, CharSink, Effect, RegisterDevice
from runner.graph.model import BackendClaim, Claim, Node, PortClaim
from runner.typed import Mapping

PORT = 0xE9


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One port and a character backend."""
    port = PortClaim(1, PORT, "debug console")
    return Claim(ports=(port,), backends=(BackendClaim(name, "char", options),))


def build(node: Node, at: Attachment) -> Debugcon:
    """The port, writing to its backend."""
    sink: CharSink = at.backend(node.claim.backends[0].name)
    return Debugcon(sink)


def qemu(node: Node) -> tuple[str, ...]:
    """``-device isa-debugcon``."""
    words = f"isa-debugcon,iobase={node.claim.ports[0].at:#x},chardev={node.claim.backends[0].name}"
    return ("-device", words)


class Debugcon:
    """What the sink does not take at once is lost (device-bugs 16), and counted."""

    def __init__(self, sink: CharSink) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)
        self.lost = 0
        self._sink = sink

    def read(self, offset: int, size: int) -> int:
        """The magic value 0xe9."""
        return PORT

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Show one byte; of a wider write the bytes as they lie in memory."""
        self.lost += size - self._sink.write((value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        return None
