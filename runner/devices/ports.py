"""The ports of a device: all that it may reach of the world around it.

A device model imports this module, :mod:`runner.wire` and nothing of the host, so its
tests run on byte arrays.  The engine supplies the implementations.  What only a function of the host
asks for, which the guest gets, is in :mod:`runner.bus.passed_ports`.
"""

from __future__ import annotations

from runner.typed import Any, Callable, NamedTuple, NewType, Protocol, Sequence, TypeGuard

GuestAddress = NewType("GuestAddress", int)
"""A guest-physical address.  Only :class:`GuestMemory` turns it into bytes."""


class GuestMemoryFault(Exception):
    """A guest address range that is not wholly inside one RAM region."""

    def __init__(self, address: int, length: int) -> None:
        super().__init__(f"guest memory {address:#x}+{length:#x} is not inside one RAM region")
        self.address = address
        self.length = length


class GuestMemory(Protocol):
    """RAM only, never a device's registers; each range inside one region (device-bugs 5 and 9)."""

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


class CharDevice(Protocol):
    """A device that takes input from a character backend."""

    on_room: Callable[[], None] | None  # set by the backend; called when input is taken again

    def feed(self, data: bytes) -> int:
        """Take bytes; returns how many.  The rest is offered again after ``on_room``."""


class CharLine(CharSink, Protocol):
    """A character backend, both ways."""

    def connect(self, device: CharDevice) -> None:
        """Feed ``device`` from now on."""


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


class WatchdogBit(NamedTuple):
    """The guest has stopped feeding its watchdog, whose ``action`` ("reset", "poweroff") follows."""

    action: str


Effect = Reset | PowerOff | ExitStatus | GuestPanicked | WatchdogBit
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

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> int: ...

    def cancel(self, timer: int) -> None: ...


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


class SerialPort(CharDevice, Protocol):
    """A 16550A that the engine serves."""

    ranges: tuple[RegisterDevice, ...]


class SerialAttachment(Attachment, Protocol):
    """What the serial port needs, and nothing else has."""

    def serial_port(self, backend: str) -> SerialPort:
        """A port whose line is this character backend, at the node's own ports and interrupt."""


class LoggingAttachment(Attachment, Protocol):
    """An attachment that takes log lines; what PCI and virtio devices are built with."""

    def log(self, level: str, event: str, **data: int | str) -> None:
        """A line for the log: ``level`` "info", "warning" or "error".  The engine limits their rate."""


class MemoryAdvisor(Protocol):
    """What the guest gives back of its memory (virtio-balloon)."""

    def discard(self, address: GuestAddress, length: int) -> None:
        """The guest does not need these bytes; they may read as zeros from now on.

        Raises GuestMemoryFault when the range is not inside one RAM region.
        """

    def given_back(self, size: int) -> None:
        """The guest says that its balloon holds ``size`` bytes now."""


Done = Callable[[int], None]
"""A completion: 0, or the errno of what went wrong; on the device's thread, maybe before the call returns."""


class DiskShape(Protocol):
    """What the guest is told of a disk."""

    @property
    def capacity(self) -> int:
        """Bytes; what lies beyond the last whole 512 is not offered."""

    @property
    def readonly(self) -> bool: ...

    @property
    def block_size(self) -> int:
        """The physical block, which is written without reading first: 512 or 4096.

        Requests come in multiples of ``sector`` all the same.
        """

    @property
    def sector(self) -> int:
        """The logical block: 512, or what a disk of the host that is passed as a whole has."""

    @property
    def discards(self) -> bool:
        """Whether blocks can be given back, and zeroes written, without moving data."""


class PmemBackend(Protocol):
    """A file that the engine has mapped into the guest's address space."""

    def flush(self, done: Done) -> None:
        """All that the guest has stored before is on stable storage when ``done(0)`` is called."""


class EntropySource(Protocol):
    """Random bytes that never run out and never block (getrandom(2))."""

    def read(self, count: int) -> bytes: ...


class ByteStream(Protocol):
    """A connection to somebody on the host, read when there is room for it.  Never blocks."""

    def read(self, limit: int) -> bytes | None:
        """Up to ``limit`` bytes; None when there are none now, b"" when no more will come.

        Raises OSError when the connection is broken.
        """

    def write(self, data: bytes | memoryview) -> int:
        """Take bytes; returns how many.  Raises OSError when nobody reads them any more."""

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """Call while there is something to read; None: no longer."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call once, when :meth:`write` would take something again."""

    def shutdown(self) -> None:
        """Nothing more will be written; the other side may still be."""

    def close(self) -> None:
        """Neither read nor written any more; no callback comes after this."""


class FrameQueue(Protocol):
    """One queue pair of a network backend: whole Ethernet frames.  Never blocks.

    ``header_size`` bytes of virtio-net header precede each frame (0: the backend knows none).
    """

    @property
    def header_size(self) -> int: ...

    def send(self, parts: Sequence[memoryview]) -> bool:
        """One frame out of these parts; False: no room now.  A frame that cannot be sent is dropped."""

    def receive(self, into: memoryview) -> int:
        """One frame into the buffer; its bytes, or 0 when there is none now."""

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """Call while a frame can be received; None: no longer."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call once, when :meth:`send` would take a frame again."""


class NetBackend(Protocol):
    """A network backend: its queue pairs and what it can take off the guest's hands."""

    @property
    def queues(self) -> Sequence[FrameQueue]: ...

    @property
    def offloads(self) -> bool:
        """Whether frames may carry partial checksums and be larger than the MTU (needs a header)."""

    def set_offloads(self, flags: int) -> None:
        """What the guest can receive: bits of TUNSETOFFLOAD (linux/if_tun.h)."""

    def set_pairs(self, count: int) -> None:
        """Only the first ``count`` queues get frames from now on."""


class StreamDialler(Protocol):
    """The host side of a hybrid vsock: stream connections by port."""

    def connect(self, port: int) -> ByteStream | None:
        """What listens for this port on the host; None when nobody does."""

    def on_connection(self, callback: Callable[[int, ByteStream, Callable[[int], None]], None]) -> None:
        """``callback(port, stream, accepted)``: somebody on the host wants the guest's ``port``.

        ``accepted(host_port)`` is called once the guest has taken the connection; when it
        refuses, the stream is closed.
        """


class OffloadedQueue(NamedTuple):
    """A virtqueue that somebody else serves: addresses are guest-physical.

    ``vector`` is the MSI-X vector for its interrupts, 0xffff for none; ``signal`` raises
    the interrupt from this process, honouring every way of delivery.
    """

    number: int
    size: int
    descriptors: int
    driver: int
    device: int
    vector: int
    doorbell: Doorbell
    signal: Callable[[], None]


class QueueOffload(Protocol):
    """vhost in the kernel, a vhost-user process, or native code that serves the rings itself.

    The implementation knows the engine's Doorbell and MsiSink and joins their eventfds.
    """

    on_broken: Callable[[str], None] | None
    """Set before :meth:`start`; called with the reason when a ring breaks a rule or its server dies."""

    @property
    def features(self) -> int:
        """Feature bits (device's and ring's) that the other side can do."""

    @property
    def config(self) -> bytes:
        """The device's configuration space as the other side has it; b"" where it has none."""

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Serve these queues from now on, with these features.  Raises OSError."""

    def stop(self, done: Callable[[], None]) -> None:
        """Serve them no longer; ``done`` when no guest memory is touched any more."""

    def kick(self, number: int) -> None:
        """Ring a queue's doorbell for the guest, whose notification came by another way."""


class ConsoleLine(CharLine, QueueOffload, Protocol):
    """A character backend that serves a console's transmit queue; ``write`` keeps the order."""

    def flush(self) -> None:
        """The machine has halted: nobody is served any more, and what has been said goes out."""


def serves_queues(backend: StreamDialler | QueueOffload) -> TypeGuard[QueueOffload]:
    """Whether a backend serves the rings itself; the others are told what to do, request by request."""
    return hasattr(backend, "kick")
