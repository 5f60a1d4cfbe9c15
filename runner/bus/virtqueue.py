"""The split virtqueue, seen from the device (virtio 1.2 §2.7).

The driver is hostile (device-bugs 1 to 8).  Every descriptor is read
once and the copy is what is used; every chain ends within queue-size steps; every buffer
lies inside one RAM region; a head is in flight at most once.  A broken rule raises
:class:`RingError`, after which the device needs a reset.

The ring's own 16- and 32-bit fields are accessed through typed memoryviews, which move
a whole field at once: the other CPU never sees half of an index.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from struct import Struct

from runner.devices.ports import GuestAddress, GuestMemory, GuestMemoryFault
from runner.typed import Callable, Final, Iterator, NamedTuple
from runner.wire import virtio

_DESCRIPTOR: Final = Struct("<QIHH")
_BYTES_A_CHAIN: Final = 0xFFFFFFFF  # the used ring has 32 bits for a length (§2.7.8)
_barrier = allocate_lock()

if sys.byteorder != "little":
    raise ImportError("virtqueues are read in place, which needs a little-endian host")


class RingError(Exception):
    """The driver broke a rule of the ring; the text says which."""


class QueueSetup(NamedTuple):
    """What the driver set up for one queue; addresses are guest-physical.

    ``driver`` is the available ring, ``device`` the used ring (the words of §2.7).
    """

    number: int
    size: int
    descriptors: int
    driver: int
    device: int


class Chain(NamedTuple):
    """One request: a copy of its descriptors, and the guest's bytes behind them.

    ``buffers`` are ``(address, length, device-writable)`` in ring order; ``readable`` and
    ``writable`` are views of the same bytes.  Empty descriptors are left out.
    """

    head: int
    buffers: tuple[tuple[int, int, bool], ...]
    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]

    @property
    def readable_length(self) -> int:
        """Bytes the driver offers."""
        return sum(map(len, self.readable))

    @property
    def writable_length(self) -> int:
        """Bytes the driver has room for."""
        return sum(map(len, self.writable))


def scatter(views: tuple[memoryview, ...], data: bytes | memoryview) -> int:
    """Copy ``data`` into the views, one after the other; the number of bytes that fitted."""
    done = 0
    for view in views:
        if done == len(data):
            break
        part = data[done : done + len(view)]
        view[: len(part)] = part
        done += len(part)
    return done


def gather(views: tuple[memoryview, ...], limit: int) -> bytes:
    """The first ``limit`` bytes of the views, copied once."""
    parts = []
    left = limit
    for view in views:
        if left <= 0:
            break
        parts.append(bytes(view[:left]))
        left -= len(parts[-1])
    return b"".join(parts)


def skip(views: tuple[memoryview, ...], count: int) -> tuple[memoryview, ...]:
    """The views without their first ``count`` bytes."""
    rest = []
    for view in views:
        if count >= len(view):
            count -= len(view)
        else:
            rest.append(view[count:])
            count = 0
    return tuple(rest)


def take(views: tuple[memoryview, ...], count: int) -> tuple[memoryview, ...]:
    """The first ``count`` bytes of the views, as views."""
    first = []
    for view in views:
        if count <= 0:
            break
        first.append(view[:count])
        count -= len(first[-1])
    return tuple(first)


def full_barrier() -> None:
    """Order earlier stores before later loads, which x86 alone does not (SDM vol. 3 §9.2.3.4).

    Taking a lock is a locked instruction, and that is a full barrier.
    """
    _barrier.acquire()
    _barrier.release()


class SplitQueue:
    """One live queue.  ``signal`` raises its interrupt; ``again`` asks for another notify."""

    def __init__(
        self,
        memory: GuestMemory,
        setup: QueueSetup,
        features: int,
        signal: Callable[[], None],
        again: Callable[[], None],
    ) -> None:
        _check_setup(setup)
        size = setup.size
        try:
            self._descriptors = memory.view(GuestAddress(setup.descriptors), virtio.DESC_SIZE * size)
            avail = memory.view(GuestAddress(setup.driver), 6 + 2 * size)
            used = memory.view(GuestAddress(setup.device), 6 + 8 * size)
        except GuestMemoryFault as fault:
            raise RingError(f"queue {setup.number}: {fault}") from fault
        self.setup = setup
        self.signal = signal
        self._again = again
        self._memory = memory
        self._mask = size - 1
        self._avail = avail.cast("H")  # flags, index, ring, used_event
        self._used = used.cast("H")  # flags, index, ring, avail_event
        self._used_ring = used[4 : 4 + 8 * size].cast("I")  # id, length, id, length, …
        self._avail_event = 2 + 4 * size
        self._used_event = 2 + size
        self._indirect = bool(features & virtio.F_INDIRECT_DESC)
        self._event_index = bool(features & virtio.F_EVENT_IDX)
        self._next = 0  # of the available ring
        self._written = 0  # of the used ring
        self._signalled = 0
        self._closed = False
        self.in_flight: set[int] = set()

    def close(self) -> None:
        """The device was reset: nothing touches the rings any more."""
        self._closed = True

    def pop(self) -> Chain | None:
        """The next request, or None.  Raises RingError."""
        if self._closed:
            return None
        offered = (self._avail[1] - self._next) & 0xFFFF
        if not offered:
            return None
        if offered > self._mask + 1:
            raise RingError(f"{offered} requests offered at once in a ring of {self._mask + 1}")
        head = self._avail[2 + (self._next & self._mask)]
        if head > self._mask:
            raise RingError(f"descriptor {head} of {self._mask + 1} offered")
        if head in self.in_flight:
            raise RingError(f"descriptor {head} offered again while it is in flight")
        chain = self._walk(head)
        self.in_flight.add(head)
        self._next = (self._next + 1) & 0xFFFF
        return chain

    def _walk(self, head: int) -> Chain:
        table: bytes | memoryview = self._descriptors
        entries = size = self._mask + 1
        index, steps, total = head, 0, 0
        buffers: list[tuple[int, int, bool]] = []
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        while True:
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, index * virtio.DESC_SIZE)
            if flags & virtio.DESC_INDIRECT:
                if table is not self._descriptors:
                    raise RingError("an indirect table inside an indirect table")
                table = self._indirect_table(address, length, flags)
                entries, index = length // virtio.DESC_SIZE, 0
                continue
            steps += 1
            if steps > size:
                raise RingError(f"a chain of more than {size} descriptors")
            if writable and not flags & virtio.DESC_WRITE:
                raise RingError("a readable buffer after a writable one")
            if length:
                total += length
                view = self._view(address, length, total)
                if flags & virtio.DESC_WRITE:
                    writable.append(view)
                else:
                    readable.append(view)
                buffers.append((address, length, bool(flags & virtio.DESC_WRITE)))
            if not flags & virtio.DESC_NEXT:
                return Chain(head, tuple(buffers), tuple(readable), tuple(writable))
            index = following
            if index >= entries:
                raise RingError(f"a chain that goes on at descriptor {index} of {entries}")

    def _indirect_table(self, address: int, length: int, flags: int) -> bytes:
        """A copy of an indirect table (§2.7.5.3)."""
        if not self._indirect:
            raise RingError("an indirect table that was not negotiated")
        if flags & virtio.DESC_NEXT:
            raise RingError("an indirect table with a next descriptor")
        if not length or length % virtio.DESC_SIZE or length > virtio.DESC_SIZE * (self._mask + 1):
            raise RingError(f"an indirect table of {length} bytes for a ring of {self._mask + 1}")
        try:
            return self._memory.read(GuestAddress(address), length)
        except GuestMemoryFault as fault:
            raise RingError(f"an indirect table outside memory: {fault}") from fault

    def _view(self, address: int, length: int, total: int) -> memoryview:
        if total > _BYTES_A_CHAIN:
            raise RingError("a chain of more than 4 GiB")
        try:
            return self._memory.view(GuestAddress(address), length)
        except GuestMemoryFault as fault:
            raise RingError(f"a buffer outside memory: {fault}") from fault

    def chains(self) -> Iterator[Chain]:
        """Requests until the ring is empty; with the event index, no notification comes meanwhile.

        After two rounds of the ring it stops and asks for another notify, so that one
        driver cannot keep the device's thread for itself.
        """
        for _ in range(2 * (self._mask + 1)):
            chain = self.pop()
            if chain is None:
                if not self.arm():
                    return
                continue
            yield chain
        if not self._closed:
            self._again()

    def arm(self) -> bool:
        """Ask to be notified of the next request; True when there is one already (§2.7.10)."""
        if self._closed:
            return False
        if self._event_index:
            self._used[self._avail_event] = self._next
        full_barrier()
        return self._avail[1] != self._next

    def push(self, chain: Chain, written: int = 0) -> None:
        """Give a request back, ``written`` bytes of its writable buffers filled from the start."""
        if self._closed:
            return
        self.in_flight.discard(chain.head)
        slot = 2 * (self._written & self._mask)
        self._used_ring[slot] = chain.head
        self._used_ring[slot + 1] = written
        self._written = (self._written + 1) & 0xFFFF
        self._used[1] = self._written  # after its element: x86 keeps stores in order

    def unpop(self, chain: Chain) -> None:
        """Put the last popped request back, as if it had never been seen."""
        self.in_flight.discard(chain.head)
        self._next = (self._next - 1) & 0xFFFF

    def interrupt(self) -> None:
        """Signal what was pushed since the last call, if the driver wants to hear of it (§2.7.7)."""
        new, old = self._written, self._signalled
        if new == old or self._closed:
            return
        self._signalled = new
        full_barrier()
        if self._event_index:
            event = self._avail[self._used_event]
            wanted = (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self._avail[0] & virtio.AVAIL_NO_INTERRUPT
        if wanted:
            self.signal()


def _check_setup(setup: QueueSetup) -> None:
    """Size and alignment (§2.7, table of alignments)."""
    size = setup.size
    if not 0 < size <= virtio.MAX_QUEUE_SIZE or size & (size - 1):
        raise RingError(f"queue {setup.number}: a size of {size}, which is no power of two")
    for name, address, alignment in (
        ("descriptor table", setup.descriptors, 16),
        ("available ring", setup.driver, 2),
        ("used ring", setup.device, 4),
    ):
        if address % alignment:
            raise RingError(f"queue {setup.number}: {name} at {address:#x} is not aligned to {alignment}")
