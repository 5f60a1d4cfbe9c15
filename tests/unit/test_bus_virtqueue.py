"""The split queue against drivers that follow the rules, and against those that do not."""

from __future__ import annotations

from struct import pack, pack_into

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus.virtqueue import Chain, QueueSetup, RingError, SplitQueue, gather, scatter, skip, take
from runner.wire import virtio
from tests.unit.virtio_driver import HIGH, RAM, Memory, Queue

SIZE = 8
DATA = 0x8000
ALL = virtio.RING_FEATURES


class Rig:
    """A driver's queue in memory and the device's view of it."""

    def __init__(self, features: int = ALL, size: int = SIZE) -> None:
        self.memory = Memory()
        self.driver = Queue(self.memory, 0, size, 0x1000)
        self.signals = 0
        self.asked_again = 0
        self.device = SplitQueue(self.memory, self.setup(), features, self._signal, self._again)

    def setup(self) -> QueueSetup:
        driver = self.driver
        return QueueSetup(0, driver.size, driver.descriptors, driver.driver, driver.device)

    def _signal(self) -> None:
        self.signals += 1

    def _again(self) -> None:
        self.asked_again += 1

    def popped(self) -> Chain:
        chain = self.device.pop()
        assert chain is not None
        return chain


def test_a_chain_arrives_as_it_was_described() -> None:
    """Buffers keep their order, and views show the guest's own bytes."""
    rig = Rig()
    rig.memory.write(DATA, b"hello")
    head = rig.driver.add((DATA, 5, False), (DATA + 16, 4, True), (HIGH + 8, 2, True))
    chain = rig.popped()
    assert chain.head == head
    assert chain.buffers == ((DATA, 5, False), (DATA + 16, 4, True), (HIGH + 8, 2, True))
    assert bytes(chain.readable[0]) == b"hello"
    assert scatter(chain.writable, b"abcdef") == 6
    rig.device.push(chain, 6)
    assert rig.memory.read(DATA + 16, 4) + rig.memory.read(HIGH + 8, 2) == b"abcdef"
    assert rig.driver.used() == [(head, 6)]


def test_an_empty_ring_has_nothing() -> None:
    """pop is None and stays None."""
    rig = Rig()
    assert rig.device.pop() is None
    assert list(rig.device.chains()) == []


def test_indices_wrap_at_65536() -> None:
    """The free-running indices go through zero without losing a request."""
    rig = Rig(size=4)
    for round_ in range(70_000):
        head = rig.driver.add((DATA, 1, True))
        rig.device.push(rig.popped(), round_ & 1)
        rig.driver.seen = rig.driver.used_index()
        rig.driver.free += rig.driver.chains.pop(head)
    assert rig.driver.available == 70_000 % 65536
    assert rig.device.pop() is None


def test_row_1_a_circle_of_empty_descriptors_ends() -> None:
    """Device-bugs 1: zero-length descriptors that point in a circle are an error, not a loop."""
    rig = Rig()
    rig.driver.describe(0, DATA, 0, virtio.DESC_NEXT, 1)
    rig.driver.describe(1, DATA, 0, virtio.DESC_NEXT, 0)
    rig.driver.offer(0)
    with pytest.raises(RingError, match="more than 8 descriptors"):
        rig.device.pop()


def test_row_1_a_circle_costs_no_more_than_the_queue_holds() -> None:
    """Device-bugs 1: at most queue-size steps, however the chain goes on."""
    rig = Rig()
    looked_at = 0

    class Counted(Memory):
        def view(self, address: int, length: int) -> memoryview:
            nonlocal looked_at
            looked_at += 1
            return rig.memory.view(address, length)

    rig.device._memory = Counted()
    rig.driver.describe(0, DATA, 1, virtio.DESC_NEXT, 0)
    rig.driver.offer(0)
    with pytest.raises(RingError):
        rig.device.pop()
    assert looked_at == SIZE


def test_row_1_an_empty_descriptor_is_left_out() -> None:
    """A zero-length descriptor counts as a step and gives no buffer."""
    rig = Rig()
    rig.driver.add((DATA, 0, False), (DATA, 3, False))
    assert rig.popped().buffers == ((DATA, 3, False),)


def indirect(rig: Rig, table: bytes, length: int | None = None, flags: int = 0) -> None:
    """Offer one indirect descriptor for ``table``."""
    rig.memory.write(0x6000, table)
    rig.driver.describe(0, 0x6000, len(table) if length is None else length, virtio.DESC_INDIRECT | flags)
    rig.driver.offer(0)


def entry(address: int, length: int, flags: int = 0, following: int = 0) -> bytes:
    return pack("<QIHH", address, length, flags, following)


def test_row_2_an_indirect_table_is_followed() -> None:
    """§2.7.5.3: normal descriptors may precede one indirect table, whose own chain is the rest."""
    rig = Rig()
    table = entry(DATA, 4, virtio.DESC_NEXT, 1) + entry(DATA + 8, 2, virtio.DESC_WRITE)
    rig.memory.write(0x6000, table)
    rig.driver.describe(0, DATA + 32, 1, virtio.DESC_NEXT, 3)
    rig.driver.describe(3, 0x6000, len(table), virtio.DESC_INDIRECT | virtio.DESC_WRITE)
    rig.driver.offer(0)
    assert rig.popped().buffers == ((DATA + 32, 1, False), (DATA, 4, False), (DATA + 8, 2, True))


@pytest.mark.parametrize("length", [0, 8, 17, 16 * (SIZE + 1), 0xFFFFFFF0])
def test_row_2_the_length_of_an_indirect_table_is_bounded(length: int) -> None:
    """Device-bugs 2: a multiple of 16, not empty, at most queue-size entries."""
    rig = Rig()
    indirect(rig, entry(DATA, 1), length)
    with pytest.raises(RingError, match="indirect table of"):
        rig.device.pop()


def test_row_2_an_indirect_table_has_none_inside() -> None:
    """Device-bugs 2: no nesting."""
    rig = Rig()
    indirect(rig, entry(0x6000, 16, virtio.DESC_INDIRECT))
    with pytest.raises(RingError, match="inside an indirect"):
        rig.device.pop()


def test_an_indirect_table_ends_the_chain() -> None:
    """§2.7.5.3.1: INDIRECT and NEXT exclude each other."""
    rig = Rig()
    indirect(rig, entry(DATA, 1), flags=virtio.DESC_NEXT)
    with pytest.raises(RingError, match="with a next"):
        rig.device.pop()


def test_an_indirect_table_needs_negotiation() -> None:
    """Without INDIRECT_DESC the flag is an error."""
    rig = Rig(features=virtio.F_VERSION_1)
    indirect(rig, entry(DATA, 1))
    with pytest.raises(RingError, match="not negotiated"):
        rig.device.pop()


def test_an_indirect_table_lies_in_memory() -> None:
    """A table outside RAM is the driver's error."""
    rig = Rig()
    rig.driver.describe(0, RAM - 8, 16, virtio.DESC_INDIRECT)
    rig.driver.offer(0)
    with pytest.raises(RingError, match="outside memory"):
        rig.device.pop()


def test_a_next_outside_the_table_is_refused() -> None:
    """The next index is checked against the table it belongs to, direct or indirect."""
    rig = Rig()
    rig.driver.describe(0, DATA, 1, virtio.DESC_NEXT, SIZE)
    rig.driver.offer(0)
    with pytest.raises(RingError, match="goes on at descriptor 8 of 8"):
        rig.device.pop()
    rig = Rig()
    indirect(rig, entry(DATA, 1, virtio.DESC_NEXT, 1))
    with pytest.raises(RingError, match="goes on at descriptor 1 of 1"):
        rig.device.pop()


def test_row_3_no_more_than_the_queue_holds_is_in_flight() -> None:
    """Device-bugs 3: with every head in flight, whatever is offered next is refused."""
    rig = Rig()
    for _ in range(SIZE):
        rig.driver.add((DATA, 1, True))
        rig.popped()
    assert len(rig.device.in_flight) == SIZE
    for head in range(SIZE):
        rig.driver.offer(head)
        with pytest.raises(RingError):
            rig.device.pop()
    assert len(rig.device.in_flight) == SIZE


def test_row_4_an_index_that_jumps_is_refused() -> None:
    """Device-bugs 4: more new requests than the ring has entries cannot be."""
    rig = Rig()
    rig.driver.set_index(SIZE + 1)
    with pytest.raises(RingError, match="9 requests offered at once"):
        rig.device.pop()


def test_row_4_an_index_that_goes_back_is_refused() -> None:
    """Device-bugs 4: going back by one is a jump of 65535, so old chains are not replayed."""
    rig = Rig()
    rig.driver.add((DATA, 1, True))
    rig.device.push(rig.popped(), 0)
    rig.driver.set_index(0)
    with pytest.raises(RingError, match="65535 requests"):
        rig.device.pop()


@pytest.mark.parametrize(
    ("address", "length"),
    [(RAM - 1, 2), (RAM, 1), (HIGH - 1, 2), (2**64 - 1, 1), (2**64 - 4096, 8192 - 1), (DATA, 0xFFFFFFFF)],
)
def test_row_5_a_buffer_lies_inside_one_region(address: int, length: int) -> None:
    """Device-bugs 5: not past a region's end, not across two, and sums do not wrap."""
    rig = Rig()
    rig.driver.add((address, length, True))
    with pytest.raises(RingError, match="outside memory"):
        rig.device.pop()


def test_row_5_a_chain_of_more_than_4_gib_is_refused() -> None:
    """Device-bugs 5: the used ring has 32 bits for a length."""

    class Vast(Memory):
        def view(self, address: int, length: int) -> memoryview:
            return memoryview(b"") if length >= 1 << 30 else super().view(address, length)

    rig = Rig()
    rig.device = SplitQueue(Vast(), rig.setup(), ALL, rig._signal, rig._again)
    rig.device._memory = Vast()
    table = rig.driver
    rig.device._descriptors = rig.memory.view(table.descriptors, 16 * SIZE)
    for index in range(4):
        rig.driver.describe(index, DATA, 1 << 30, virtio.DESC_NEXT if index < 3 else 0, index + 1)
    with pytest.raises(RingError, match="4 GiB"):
        rig.device._walk(0)


def test_row_6_what_was_checked_is_what_is_used() -> None:
    """Device-bugs 6: descriptors and tables changed after pop change nothing."""
    rig = Rig()
    indirect(rig, entry(DATA, 4, virtio.DESC_WRITE))
    chain = rig.popped()
    rig.memory.write(0x6000, entry(0x2000, 0x1000, virtio.DESC_WRITE))
    rig.driver.describe(0, 0x3000, 0x1000, virtio.DESC_WRITE)
    assert chain.buffers == ((DATA, 4, True),)
    assert [len(view) for view in chain.writable] == [4]


def test_row_6_each_descriptor_is_read_once() -> None:
    """Device-bugs 6: a table that changes with every read is read once, so it cannot disagree."""
    rig = Rig()
    reads = []

    class Watched(Memory):
        def read(self, address: int, length: int) -> bytes:
            reads.append((address, length))
            return rig.memory.read(address, length)

    rig.device._memory = Watched()
    indirect(rig, entry(DATA, 4, virtio.DESC_NEXT, 1) + entry(DATA, 4))
    rig.popped()
    assert reads == [(0x6000, 32)]


def test_row_8_a_head_in_flight_is_refused() -> None:
    """Device-bugs 8: one head offered twice while it is under way."""
    rig = Rig()
    head = rig.driver.add((DATA, 1, True))
    rig.popped()
    rig.driver.offer(head)
    with pytest.raises(RingError, match="again while it is in flight"):
        rig.device.pop()


def test_a_head_comes_back_into_use_after_its_answer() -> None:
    """Offering the same head again after it was pushed is what every driver does."""
    rig = Rig()
    for _ in range(3):
        rig.driver.describe(2, DATA, 1, virtio.DESC_WRITE)
        rig.driver.offer(2)
        rig.device.push(rig.popped(), 1)
    assert rig.device.in_flight == set()


def test_a_head_outside_the_table_is_refused() -> None:
    """An available entry is checked against the queue's size."""
    rig = Rig()
    rig.driver.offer(SIZE)
    with pytest.raises(RingError, match="descriptor 8 of 8"):
        rig.device.pop()


def test_readable_after_writable_is_refused() -> None:
    """§2.7.4.2: device-readable buffers come first."""
    rig = Rig()
    rig.driver.add((DATA, 1, True), (DATA, 1, False))
    with pytest.raises(RingError, match="readable buffer after"):
        rig.device.pop()


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0}, {"size": 3}, {"size": 65536}, {"descriptors": 0x1008}, {"driver": 0x2001},
        {"device": 0x3002}, {"descriptors": RAM - 16}, {"driver": RAM}, {"device": 2**64 - 4},
    ],
)  # fmt: skip
def test_rings_are_checked_when_they_go_live(change: dict[str, int]) -> None:
    """Size, alignment and place of all three areas."""
    good = QueueSetup(0, SIZE, 0x1000, 0x2000, 0x3000)
    SplitQueue(Memory(), good, ALL, int, int)
    with pytest.raises(RingError):
        SplitQueue(Memory(), good._replace(**change), ALL, int, int)


def test_without_event_index_the_flag_decides() -> None:
    """§2.7.7: AVAIL_NO_INTERRUPT keeps the interrupt back."""
    rig = Rig(features=virtio.F_VERSION_1)
    rig.driver.add((DATA, 1, True))
    rig.device.push(rig.popped())
    rig.device.interrupt()
    assert rig.signals == 1
    pack_into("<H", rig.memory.view(rig.driver.driver, 2), 0, virtio.AVAIL_NO_INTERRUPT)
    rig.driver.used()
    rig.driver.add((DATA, 1, True))
    rig.device.push(rig.popped())
    rig.device.interrupt()
    assert rig.signals == 1


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(1, SIZE))
def test_event_index_signals_exactly_when_it_is_crossed(start: int, event: int, count: int) -> None:
    """§2.7.7.1: an interrupt exactly when used_event is among the entries written since the last."""
    rig = Rig()
    rig.device._written = rig.device._signalled = start
    rig.driver.want_interrupt_at(event)
    for _ in range(count):
        rig.driver.add((DATA, 1, True))
        rig.device.push(rig.popped())
    rig.device.interrupt()
    crossed = event in {(start + step) & 0xFFFF for step in range(count)}
    assert rig.signals == int(crossed)


def test_interrupt_without_anything_new_is_silent() -> None:
    """No push, no signal."""
    rig = Rig()
    rig.device.interrupt()
    assert rig.signals == 0


def test_arm_asks_for_the_next_request_and_sees_what_came_before() -> None:
    """§2.7.10: avail_event is the next entry, and one that raced in is told at once."""
    rig = Rig()
    assert not rig.device.arm()
    assert rig.driver.wants_notify_at() == 0
    rig.driver.add((DATA, 1, True))
    rig.popped()
    assert not rig.device.arm()
    assert rig.driver.wants_notify_at() == 1
    rig.driver.add((DATA, 1, True))
    assert rig.device.arm()


def test_a_driver_that_never_stops_does_not_keep_the_thread() -> None:
    """After two rounds of the ring the device lets others run and asks to be called again."""
    rig = Rig()
    rounds = 0
    rig.driver.add((DATA, 1, True))
    for chain in rig.device.chains():
        rounds += 1
        rig.device.push(chain)
        rig.driver.used()
        rig.driver.add((DATA, 1, True))
    assert rounds == 2 * SIZE
    assert rig.asked_again == 1


def test_a_closed_queue_touches_nothing() -> None:
    """After a reset a late completion writes neither the used ring nor an interrupt."""
    rig = Rig()
    rig.driver.add((DATA, 1, True))
    chain = rig.popped()
    rig.driver.add((DATA, 1, True))
    before = bytes(rig.memory.regions[0])
    rig.device.close()
    rig.device.push(chain, 1)
    rig.device.interrupt()
    assert rig.device.pop() is None
    assert not rig.device.arm()
    assert bytes(rig.memory.regions[0]) == before
    assert rig.signals == 0


def test_unpop_gives_the_same_chain_again() -> None:
    """A request that cannot be served yet is as if never seen."""
    rig = Rig()
    head = rig.driver.add((DATA, 1, True))
    rig.device.unpop(rig.popped())
    assert rig.popped().head == head


@given(st.lists(st.binary(max_size=8), max_size=5), st.integers(0, 45))
def test_cutting_views_is_cutting_bytes(parts: list[bytes], count: int) -> None:
    """take, skip and gather of views equal slicing of the joined bytes."""
    views = tuple(memoryview(bytearray(part)) for part in parts)
    whole = b"".join(parts)
    assert b"".join(take(views, count)) == whole[:count] == gather(views, count)
    assert b"".join(skip(views, count)) == whole[count:]


hostile_descriptor = st.tuples(
    st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2 * RAM), st.just(0x6000)),
    st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 128)),
    st.integers(0, 7),
    st.integers(0, SIZE + 1),
)


@settings(max_examples=300, deadline=None)
@given(
    table=st.lists(hostile_descriptor, min_size=SIZE, max_size=SIZE),
    inner=st.lists(hostile_descriptor, min_size=SIZE, max_size=SIZE),
    heads=st.lists(st.integers(0, SIZE), min_size=SIZE, max_size=SIZE),
    index=st.one_of(st.integers(0, SIZE), st.integers(0, 65535)),
    answers=st.lists(st.booleans(), max_size=SIZE),
)
def test_a_hostile_ring_ends_in_chains_or_an_error(
    table: list[tuple[int, int, int, int]],
    inner: list[tuple[int, int, int, int]],
    heads: list[int],
    index: int,
    answers: list[bool],
) -> None:
    """Whatever the ring holds: RingError, or chains that lie in RAM, distinct and bounded."""
    rig = Rig()
    rig.memory.write(0x6000, b"".join(pack("<QIHH", *one) for one in inner))
    for number, one in enumerate(table):
        rig.driver.describe(number, *one)
    for head in heads:
        rig.driver.offer(head)
    rig.driver.set_index(index)
    try:
        for number, chain in enumerate(rig.device.chains()):
            assert len(chain.buffers) <= SIZE
            for address, length, _ in chain.buffers:
                rig.memory.view(address, length)
            assert len(rig.device.in_flight) <= SIZE
            if number < len(answers) and answers[number]:
                rig.device.push(chain)
    except RingError:
        pass
    rig.device.interrupt()
