"""The ports of a device: all that it may reach of the world around it.

A device model imports this module, :mod:`runner.wire` and nothing of the host, so its
tests run on byte arrays.  The engine supplies the implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NewType, Protocol

GuestAddress = NewType("GuestAddress", int)
"""A guest-physical address.  Only :class:`GuestMemory` turns it into bytes."""


class GuestMemoryFault(Exception):
    """A guest address range that is not wholly inside one RAM region."""

    def __init__(self, address: int, length: int) -> None:
        super().__init__(f"guest memory {address:#x}+{length:#x} is not inside one RAM region")
        self.address = address
        self.length = length


class GuestMemory(Protocol):
    """RAM only, never a device's registers (device-bugs 9); each range inside one region (5)."""

    def read(self, address: GuestAddress, length: int) -> bytes:
        """Copy ``length`` bytes out.  Raises GuestMemoryFault."""

    def write(self, address: GuestAddress, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` in.  Raises GuestMemoryFault."""

    def view(self, address: GuestAddress, length: int) -> memoryview:
        """The writable bytes themselves, for data that is moved once and not interpreted."""


class IrqLine(Protocol):
    """A wired interrupt."""

    def set(self, asserted: bool) -> None:
        """Drive the line; for an edge-triggered line a rise is one interrupt."""


class MsiSink(Protocol):
    """Message-signalled interrupts of one PCI function."""

    def configure(self, vector: int, address: int, data: int, masked: bool) -> None:
        """The guest has written a vector's message; called before it can fire."""

    def fire(self, vector: int) -> None:
        """Send the vector's message (the caller has honoured mask and enable)."""


class Doorbell(Protocol):
    """Something the guest rings without leaving guest mode (an ioeventfd)."""

    def listen(self, on_ring: Callable[[], None]) -> None:
        """Call ``on_ring`` on the device's thread after one or more rings."""


class CharSink(Protocol):
    """Where a serial line's or console's bytes go.  Never blocks (device-bugs 16)."""

    def write(self, data: bytes) -> int:
        """Take bytes; returns how many were taken (the rest is the caller's to drop or keep)."""


class Clock(Protocol):
    """Time, so that tests can hold it."""

    def monotonic_ns(self) -> int: ...

    def wall(self) -> float: ...


class Reset(NamedTuple):
    """The guest asked for a reset through ``cause`` ("i8042", "acpi", "cf9")."""

    cause: str


class PowerOff(NamedTuple):
    """The guest switched itself off."""

    cause: str = "acpi"


class ExitStatus(NamedTuple):
    """The guest's work ended with this status (0–255)."""

    status: int


class GuestPanicked(NamedTuple):
    """pvpanic: the guest kernel says it has panicked (or crash-loaded)."""

    crash_loaded: bool = False


Effect = Reset | PowerOff | ExitStatus | GuestPanicked
"""What a register write asks of the machine; the device never calls the machine itself."""


class RegisterDevice(Protocol):
    """A device behind ports or MMIO.  Offsets are relative to the claimed range; size is 1, 2, 4 or 8."""

    def read(self, offset: int, size: int) -> int:
        """The register's value, ``size`` bytes of it, little-endian."""

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """Store, and say what should happen."""


class Device(Protocol):
    """What ``build`` returns: a register range for each claimed port range, then each claimed region."""

    @property
    def ranges(self) -> tuple[RegisterDevice, ...]: ...


class EventLoop(Protocol):
    """The device thread of the VM process: callbacks run one at a time, under the machine's lock."""

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None: ...

    def remove_reader(self, fd: int) -> None: ...

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> None: ...


class Attachment(Protocol):
    """Everything the engine hands to ``build(node, at)``: the sockets a device plugs into."""

    @property
    def memory(self) -> GuestMemory: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def loop(self) -> EventLoop: ...

    def irq(self, index: int) -> IrqLine:
        """The line given to ``node.claim.irqs[index]``."""

    def msi(self) -> MsiSink:
        """The messages of ``node.claim.pci``."""

    def doorbell(self, address: int, size: int, value: int | None) -> Doorbell:
        """A write of ``value`` (None: any) at an MMIO address, taken by the kernel."""

    def backend(self, name: str) -> Any:
        """What the supervisor opened for ``node.claim.backends`` entry ``name``."""

    def request(self, effect: Effect) -> None:
        """An effect that no register write carries (a watchdog bites)."""
