"""A guest without a CPU: memory, an attachment that records, and a virtio driver.

The driver finds its structures through PCI capabilities, as a real one does, and lays out
its rings in a bytearray.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from struct import pack_into, unpack_from
from typing import Any

from runner.bus.pci import Function, PciBus
from runner.bus.pci_bar import AddressSpace, BarOwner, BarRefused, Window
from runner.devices.ports import Effect, GuestAddress, GuestMemoryFault
from runner.graph.model import Claim, IrqClaim, Node
from runner.wire import pci, virtio
from tests.unit.wired import Line

HIGH = 1 << 32
RAM = 1 << 20
MMIO = Window("mem", 0xC0000000, 0x10000000)
IO = Window("io", 0x1000, 0x1000)


class Memory:
    """GuestMemory on bytearrays: ``size`` bytes at 0 and as many at 4 GiB."""

    def __init__(self, size: int = RAM) -> None:
        self.regions = {0: bytearray(size), HIGH: bytearray(size)}

    def view(self, address: GuestAddress | int, length: int) -> memoryview:
        for start, data in self.regions.items():
            if start <= address and address + length <= start + len(data):
                return memoryview(data)[address - start : address - start + length]
        raise GuestMemoryFault(address, length)

    def read(self, address: GuestAddress | int, length: int) -> bytes:
        return bytes(self.view(address, length))

    def write(self, address: GuestAddress | int, data: bytes | bytearray | memoryview) -> None:
        self.view(address, len(data))[:] = data


class Messages:
    """MsiSink that remembers."""

    def __init__(self) -> None:
        self.configured: list[tuple[int, int, int, bool]] = []
        self.fired: list[int] = []

    def configure(self, vector: int, address: int, data: int, masked: bool) -> None:
        self.configured.append((vector, address, data, masked))

    def fire(self, vector: int) -> None:
        self.fired.append(vector)


class Bell:
    """Doorbell: ``ring`` does what the kernel's eventfd would."""

    def __init__(self) -> None:
        self.on_ring: Callable[[], None] | None = None

    def listen(self, on_ring: Callable[[], None]) -> None:
        self.on_ring = on_ring


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def monotonic_ns(self) -> int:
        return self.now

    def wall(self) -> float:
        return self.now / 1e9


class Loop:
    """EventLoop whose timers fire when a test says so."""

    def __init__(self) -> None:
        self.timers: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> int:
        self._number += 1
        self.timers.append((monotonic_ns, self._number, callback))
        return self._number

    def cancel(self, timer: int) -> None:
        self.timers = [one for one in self.timers if one[1] != timer]

    def run(self, now: int = 0) -> None:
        due = [callback for at, _, callback in self.timers if at <= now]
        self.timers = [one for one in self.timers if one[0] > now]
        for callback in due:
            callback()


class Attachment:
    """What the engine would hand to ``build``."""

    def __init__(self, backends: dict[str, Any] | None = None, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self.clock = Clock()
        self.loop = Loop()
        self.messages = Messages()
        self.line = Line()
        self.bells: dict[int, Bell] = {}
        self.logged: list[tuple[str, str, dict[str, int | str]]] = []
        self.requested: list[Effect] = []
        self._backends = backends or {}

    def irq(self, index: int) -> Line:
        return self.line

    def msi(self) -> Messages:
        return self.messages

    def doorbell(self, address: int, size: int, value: int | None) -> Bell:
        return self.bells.setdefault(address, Bell())

    def backend(self, name: str) -> Any:
        return self._backends[name]

    def request(self, effect: Effect) -> None:
        self.requested.append(effect)

    def log(self, level: str, event: str, **data: int | str) -> None:
        self.logged.append((level, event, data))


class Mapper:
    """BarMapper that remembers, and refuses the addresses in ``refuse``."""

    def __init__(self) -> None:
        self.mapped: dict[tuple[str, int], int] = {}
        self.calls: list[tuple[str, int, int | None, int | None]] = []
        self.refuse: set[int] = set()
        self.fail: set[int] = set()

    def map(self, function: BarOwner, bar: int, old: int | None, new: int | None) -> None:
        if new in self.refuse:
            raise BarRefused(f"{new:#x} is refused by the engine")
        if new in self.fail:
            raise OSError(errno.ENOSPC, "no slot left")
        assert self.mapped.get((function.name, bar)) == old, "the bus told the truth about the old place"
        self.calls.append((function.name, bar, old, new))
        if new is None:
            del self.mapped[function.name, bar]
        else:
            self.mapped[function.name, bar] = new


def placed(kind: str, name: str, section: str, options: dict[str, Any], claim: Claim, *, intx: bool) -> Node:
    """A node with its BARs allocated, and a line where ``intx``."""
    assert claim.pci is not None
    at = MMIO.start
    bars = []
    for bar in claim.pci.bars:
        at = -(-at // bar.size) * bar.size
        bars.append(bar._replace(at=at if bar.kind != "io" else IO.start))
        at += bar.size
    irqs = (IrqClaim(16, "level", "low", "INTA"),) if intx else ()
    claim = claim._replace(pci=claim.pci._replace(bars=tuple(bars), slot="00:05.0"), irqs=irqs)
    return Node(kind, name, section, options, claim)


class Queue:
    """The driver's side of one split queue, in guest memory from ``base`` on."""

    def __init__(self, memory: Memory, number: int, size: int, base: int) -> None:
        self.memory, self.number, self.size = memory, number, size
        self.descriptors = base
        self.driver = base + 16 * size
        self.device = (self.driver + 6 + 2 * size + 3) & ~3
        self.free = list(range(size))
        self.available = 0
        self.seen = 0
        self.chains: dict[int, list[int]] = {}

    @property
    def end(self) -> int:
        return self.device + 6 + 8 * self.size

    def describe(self, index: int, address: int, length: int, flags: int = 0, following: int = 0) -> None:
        """Write one descriptor."""
        slot = self.memory.view(self.descriptors + 16 * index, 16)
        pack_into("<QIHH", slot, 0, address, length, flags, following)

    def chain(self, buffers: Iterable[tuple[int, int, bool]]) -> int:
        """Descriptors for ``(address, length, writable)``; the head, not yet offered."""
        parts = list(buffers)
        indices = [self.free.pop(0) for _ in parts]
        for at, (address, length, writable) in enumerate(parts):
            last = at + 1 == len(parts)
            flags = (virtio.DESC_WRITE if writable else 0) | (0 if last else virtio.DESC_NEXT)
            self.describe(indices[at], address, length, flags, 0 if last else indices[at + 1])
        self.chains[indices[0]] = indices
        return indices[0]

    def offer(self, head: int) -> None:
        """Put a head into the available ring."""
        slot = self.driver + 4 + 2 * (self.available % self.size)
        pack_into("<H", self.memory.view(slot, 2), 0, head)
        self.set_index(self.available + 1)

    def set_index(self, index: int) -> None:
        self.available = index & 0xFFFF
        pack_into("<H", self.memory.view(self.driver + 2, 2), 0, self.available)

    def add(self, *buffers: tuple[int, int, bool]) -> int:
        """Offer a chain; its head."""
        head = self.chain(buffers)
        self.offer(head)
        return head

    def used_index(self) -> int:
        return unpack_from("<H", self.memory.read(self.device + 2, 2))[0]

    def used(self) -> list[tuple[int, int]]:
        """``(head, written)`` of what has come back since the last call."""
        back = []
        while self.seen != self.used_index():
            slot = self.device + 4 + 8 * (self.seen % self.size)
            head, written = unpack_from("<II", self.memory.read(slot, 8))
            self.free += self.chains.pop(head, [])
            self.seen = (self.seen + 1) & 0xFFFF
            back.append((head, written))
        return back

    def want_interrupt_at(self, index: int) -> None:
        """used_event."""
        pack_into("<H", self.memory.view(self.driver + 4 + 2 * self.size, 2), 0, index & 0xFFFF)

    def wants_notify_at(self) -> int:
        """avail_event."""
        return unpack_from("<H", self.memory.read(self.device + 4 + 8 * self.size, 2))[0]


class Driver:
    """A driver on a bus of its own, for the function of a built device."""

    def __init__(self, built: Any, at: Attachment, *, msix: bool = True) -> None:
        self.built, self.at, self.memory = built, at, at.memory
        self.function: Function = built.function
        self.mapper = Mapper()
        self.space = AddressSpace((MMIO, IO), self.mapper)
        self.bus = PciBus(self.space)
        self.bus.add("00:05.0", self.function)
        self.config_write(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_MASTER)
        self.structures: dict[int, tuple[int, int, int]] = {}
        self.multiplier = 0
        self.capabilities: dict[int, list[int]] = {}
        self._find_structures()
        self.queues: dict[int, Queue] = {}
        self.next_free = 0x1000
        if msix:
            self.enable_msix()

    # ---- access

    def config_read(self, offset: int, size: int) -> int:
        return self.bus.read_config(0, 5 << 3, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.bus.write_config(0, 5 << 3, offset, size, value)

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        device = self.function.bars[bar].device
        assert device is not None
        return device.read(offset, size)

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None:
        device = self.function.bars[bar].device
        assert device is not None
        device.write(offset, size, value)

    def _find_structures(self) -> None:
        at = self.config_read(pci.CAPABILITIES, 1)
        while at:
            kind = self.config_read(at, 1)
            self.capabilities.setdefault(kind, []).append(at)
            if kind == pci.CAP_VENDOR:
                structure = self.config_read(at + 3, 1)
                bar = self.config_read(at + 4, 1)
                offset, length = self.config_read(at + 8, 4), self.config_read(at + 12, 4)
                self.structures.setdefault(structure, (bar, offset, length))
                if structure == virtio.CFG_NOTIFY:
                    self.multiplier = self.config_read(at + 16, 4)
            at = self.config_read(at + 1, 1)

    def get(self, register: int, size: int) -> int:
        bar, offset, _ = self.structures[virtio.CFG_COMMON]
        return self.bar_read(bar, offset + register, size)

    def set(self, register: int, size: int, value: int) -> None:
        bar, offset, _ = self.structures[virtio.CFG_COMMON]
        self.bar_write(bar, offset + register, size, value)

    def device_config(self, offset: int, size: int) -> int:
        bar, start, _ = self.structures[virtio.CFG_DEVICE]
        return self.bar_read(bar, start + offset, size)

    def set_device_config(self, offset: int, size: int, value: int) -> None:
        bar, start, _ = self.structures[virtio.CFG_DEVICE]
        self.bar_write(bar, start + offset, size, value)

    def isr(self) -> int:
        bar, offset, _ = self.structures[virtio.CFG_ISR]
        return self.bar_read(bar, offset, 1)

    def enable_msix(self) -> None:
        at = self.capabilities[pci.CAP_MSIX][0]
        vectors = (self.config_read(at + 2, 2) & 0x7FF) + 1
        table = self.config_read(at + 4, 4)
        self.config_write(at + 2, 2, pci.MSIX_ENABLE)
        for vector in range(vectors):
            entry = (table & ~7) + 16 * vector
            self.bar_write(table & 7, entry, 8, 0xFEE00000)
            self.bar_write(table & 7, entry + 8, 4, 0x4000 + vector)
            self.bar_write(table & 7, entry + 12, 4, 0)

    # ---- life

    @property
    def status(self) -> int:
        return self.get(virtio.COMMON_STATUS, 1)

    @status.setter
    def status(self, value: int) -> None:
        self.set(virtio.COMMON_STATUS, 1, value)

    @property
    def offered(self) -> int:
        words = []
        for select in (0, 1):
            self.set(virtio.COMMON_DEVICE_FEATURE_SELECT, 4, select)
            words.append(self.get(virtio.COMMON_DEVICE_FEATURE, 4))
        return words[0] | words[1] << 32

    def accept(self, features: int) -> None:
        for select in (0, 1):
            self.set(virtio.COMMON_DRIVER_FEATURE_SELECT, 4, select)
            self.set(virtio.COMMON_DRIVER_FEATURE, 4, features >> 32 * select & 0xFFFFFFFF)

    def negotiate(self, features: int | None = None) -> None:
        """Up to FEATURES_OK, with everything that is offered unless told otherwise."""
        self.status = 0
        self.status = virtio.ACKNOWLEDGE
        self.status = virtio.ACKNOWLEDGE | virtio.DRIVER
        self.accept(self.offered if features is None else features)
        self.status = virtio.ACKNOWLEDGE | virtio.DRIVER | virtio.FEATURES_OK

    def set_up(self, number: int, size: int | None = None) -> Queue:
        """Lay out one queue, tell the device, and enable it."""
        self.set(virtio.COMMON_QUEUE_SELECT, 2, number)
        size = size or min(self.get(virtio.COMMON_QUEUE_SIZE, 2), 256)
        queue = Queue(self.memory, number, size, self.next_free)
        self.memory.write(queue.descriptors, bytes(queue.end - queue.descriptors))
        self.next_free = (queue.end + 0xFFF) & ~0xFFF
        self.set(virtio.COMMON_QUEUE_SIZE, 2, size)
        for register, address in (
            (virtio.COMMON_QUEUE_DESC, queue.descriptors),
            (virtio.COMMON_QUEUE_DRIVER, queue.driver),
            (virtio.COMMON_QUEUE_DEVICE, queue.device),
        ):
            self.set(register, 4, address & 0xFFFFFFFF)
            self.set(register + 4, 4, address >> 32)
        self.set(virtio.COMMON_QUEUE_VECTOR, 2, number + 1)
        self.set(virtio.COMMON_QUEUE_ENABLE, 2, 1)
        self.queues[number] = queue
        return queue

    def start(self, features: int | None = None, sizes: dict[int, int] | None = None) -> Driver:
        """Everything up to DRIVER_OK, all queues enabled."""
        self.negotiate(features)
        self.set(virtio.COMMON_CONFIG_VECTOR, 2, 0)
        for number in range(self.get(virtio.COMMON_NUM_QUEUES, 2)):
            self.set_up(number, (sizes or {}).get(number))
        self.status |= virtio.DRIVER_OK
        return self

    def alloc(self, length: int, data: bytes = b"") -> int:
        """Guest memory for a buffer, 16-byte aligned."""
        at = (self.next_free + 15) & ~15
        self.next_free = at + length
        if data:
            self.memory.write(at, data)
        return at

    def readable(self, data: bytes) -> tuple[int, int, bool]:
        return self.alloc(len(data), data), len(data), False

    def writable(self, length: int) -> tuple[int, int, bool]:
        return self.alloc(length), length, True

    def kick(self, number: int) -> None:
        """Ring the queue's doorbell, as the kernel would after catching the write."""
        self.set(virtio.COMMON_QUEUE_SELECT, 2, number)
        offset = self.get(virtio.COMMON_QUEUE_NOTIFY_OFF, 2) * self.multiplier
        bar, start, _ = self.structures[virtio.CFG_NOTIFY]
        address = self.function.bars[bar].mapped
        assert address is not None
        on_ring = self.at.bells[address + start + offset].on_ring
        assert on_ring is not None
        on_ring()

    def request(self, number: int, *buffers: tuple[int, int, bool]) -> list[tuple[int, int]]:
        """Offer one chain, kick, and what has come back."""
        self.queues[number].add(*buffers)
        self.kick(number)
        return self.queues[number].used()
