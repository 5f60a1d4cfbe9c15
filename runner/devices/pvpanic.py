"""pvpanic: the guest kernel tells by port 0x505 that it has panicked (QEMU docs/specs/pvpanic.rst)."""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import Attachment, Effect, GuestPanicked, RegisterDevice
from runner.graph.model import Claim, Node, PortClaim
from runner.typed import Mapping
from runner.wire import aml, resources

PORT = 0x505
PANICKED = 0x01
CRASH_LOADED = 0x02  # a crash kernel takes over and will reboot by itself


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """One port."""
    return Claim(ports=(PortClaim(1, PORT, "pvpanic"),))


def build(node: Node, at: Attachment) -> Pvpanic:
    """The port; nothing to connect."""
    return Pvpanic()


def qemu(node: Node) -> tuple[str, ...]:
    """``-device pvpanic``."""
    return ("-device", f"pvpanic,ioport={node.claim.ports[0].at:#x}")


def acpi(node: Node) -> tuple[aml.Term, ...]:
    """Device PEVT, by the id that Linux's pvpanic driver knows."""
    used = resources.template(resources.io(node.claim.ports[0].at or PORT, 1))
    return (aml.device("PEVT", aml.name("_HID", "QEMU0001"), aml.name("_CRS", used)),)


class Pvpanic:
    """Reading tells which events are understood: both."""

    def __init__(self) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)

    def read(self, offset: int, size: int) -> int:
        """The events that the host understands."""
        return PANICKED | CRASH_LOADED

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """A panic outweighs the announcement that a crash kernel was started."""
        if value & PANICKED:
            return GuestPanicked()
        return GuestPanicked(crash_loaded=True) if value & CRASH_LOADED else None
