"""virtio-blk: what the driver is offered and told, and its requests through the data path that runs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from struct import pack, unpack_from
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.devices import virtio_blk
from runner.devices.ports import OffloadedQueue
from runner.wire import virtio
from runner.wire import virtio_blk as blk
from tests.unit.served_disk import ALL, NativeMemory, ServedDisk
from tests.unit.virtio_driver import Attachment, Driver, Memory, placed

SECTORS = 64


def built(disk: Any, memory: Memory | None = None, **options: Any) -> Driver:
    options = {"path": "x", "format": "raw", "queues": 1, **options}
    at = Attachment({"disks.root": disk}, memory)
    node = placed("virtio_blk", "root", "disks", options, virtio_blk.claim("disks.root", options), intx=False)
    return Driver(virtio_blk.build(node, at), at)


def started(disk: Any, features: int | None = None, **options: Any) -> Driver:
    return built(disk, **options).start(features)


def header(kind: int, sector: int = 0) -> bytes:
    return pack("<IIQ", kind, 0, sector)


class Served:
    """A driver and the disk that serves it."""

    def __init__(self, queues: int = 1) -> None:
        self.memory = NativeMemory()
        self.disk = ServedDisk(self.memory, queues)
        self.driver = built(self.disk, self.memory, queues=queues, serial="serial").start()

    def ask(self, *buffers: tuple[int, int, bool], queue: int = 0) -> tuple[int, int]:
        """One request of these buffers; what came back."""
        ring = self.driver.queues[queue]
        ring.add(*buffers)
        self.disk.kick(queue)
        ((head, written),) = self.disk.until(ring.used)
        return head, written

    def close(self) -> None:
        self.disk.close()
        self.memory.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served(queues=4)
    yield made
    made.close()


def test_a_request_goes_through_the_device_and_back(served: Served) -> None:
    """Several buffers each way, and the used length counts data and status (§2.7.8)."""
    driver = served.driver
    data = driver.readable(b"a" * 300), driver.readable(b"b" * 724)
    status = driver.alloc(1, b"\xff"), 1, True
    assert served.ask(driver.readable(header(blk.T_OUT, 3)), *data, status)[1] == 1
    assert driver.memory.read(status[0], 1) == b"\0"
    one, two = driver.writable(1000), driver.writable(24)
    assert served.ask(driver.readable(header(blk.T_IN, 3)), one, two, status)[1] == 1025
    assert driver.memory.read(one[0], 1000) + driver.memory.read(two[0], 24) == b"a" * 300 + b"b" * 724


def test_any_framing_of_the_header_will_do(served: Served) -> None:
    """§2.7.4.1: the device must not rely on where one descriptor ends."""
    driver = served.driver
    raw = header(blk.T_OUT, 1) + b"z" * 512
    served.ask(*map(driver.readable, (raw[:7], raw[7:100], raw[100:])), driver.writable(1))
    into = driver.writable(513)
    served.ask(driver.readable(header(blk.T_IN, 1)), into)
    assert driver.memory.read(into[0], 513) == b"z" * 512 + b"\0"


def test_the_serial_number_fills_what_room_there_is(served: Served) -> None:
    """§5.2.6.2: up to 20 bytes."""
    into = served.driver.writable(21)
    assert served.ask(served.driver.readable(header(blk.T_GET_ID)), into)[1] == 21
    assert served.driver.memory.read(into[0], 21) == b"serial".ljust(21, b"\0")
    assert served.ask(served.driver.readable(header(blk.T_GET_ID)), served.driver.writable(5))[1] == 5


@pytest.mark.parametrize("parts", [[header(0)], [header(0)[:15], None], [None]])
def test_a_request_without_header_or_status_needs_a_reset(served: Served, parts: list[bytes | None]) -> None:
    """The rest of the device is in order again after it."""
    driver = served.driver
    driver.queues[0].add(*(driver.writable(1) if part is None else driver.readable(part) for part in parts))
    served.disk.kick(0)
    served.disk.until(lambda: driver.status & virtio.NEEDS_RESET)
    driver.next_free = 0x20000
    driver.start()
    served.ask(driver.readable(header(blk.T_IN)), driver.writable(512), driver.writable(1))


def test_several_queues_answer_for_themselves(served: Served) -> None:
    """queues = 4: MQ is offered, and each queue has its own vector."""
    driver = served.driver
    assert driver.offered & blk.F_MQ
    assert driver.device_config(34, 2) == 4
    served.ask(driver.readable(header(blk.T_IN)), driver.writable(512), driver.writable(1), queue=3)
    served.disk.until(lambda: driver.at.messages.fired)
    assert driver.at.messages.fired == [4]


def test_write_through_offers_no_flush() -> None:
    """cache = "writethrough": the driver need not flush, so it is not told that it could."""
    assert not built(Elsewhere(), cache="writethrough").offered & blk.F_FLUSH
    assert built(Elsewhere()).offered & blk.F_FLUSH


def test_a_read_only_disk_says_so() -> None:
    """RO, and neither flush nor discard, which are for what is written."""
    disk = Elsewhere(readonly=True)
    offered = built(disk).offered
    assert offered & blk.F_RO
    assert not offered & (blk.F_FLUSH | blk.F_DISCARD | blk.F_WRITE_ZEROES)


def test_the_configuration_tells_the_disks_shape() -> None:
    """§5.2.4: capacity in sectors, whole ones only, segments, block size, limits."""
    driver = started(Elsewhere(capacity=100 * 512 + 100, block_size=4096))
    assert driver.device_config(0, 8) == 100
    assert driver.device_config(12, 4) == virtio_blk.SEGMENTS
    assert driver.device_config(20, 4) == 512, "a partition table counts in these"
    assert driver.device_config(24, 1) == 3
    assert driver.device_config(26, 2) == 8
    config = bytes(driver.device_config(at, 1) for at in range(60))
    limits = unpack_from("<IIIIIB", config, 36)
    assert limits == (
        virtio_blk.DISCARD_SECTORS, virtio_blk.DISCARD_SEGMENTS, 8,
        virtio_blk.DISCARD_SECTORS, virtio_blk.DISCARD_SEGMENTS, 1,
    )  # fmt: skip


def test_a_disk_with_sectors_of_4096_bytes_is_shown_as_it_is() -> None:
    """Its partition table counts in them; the alignment of a discard is still told in 512 bytes."""
    driver = started(Elsewhere(capacity=64 << 10, block_size=4096, sector=4096))
    assert driver.device_config(0, 8) == 128
    assert driver.device_config(20, 4) == 4096
    assert driver.device_config(24, 1) == 0
    assert driver.device_config(26, 2) == 1
    assert driver.device_config(44, 4) == 8


class Elsewhere:
    """QueueOffload with a disk's shape."""

    capacity = 1 << 20
    readonly = False
    block_size = sector = 512
    discards = True
    config = b""
    on_broken: Callable[[str], None] | None = None

    def __init__(self, **shape: Any) -> None:
        self.__dict__.update(shape)
        self.features = ALL & ~virtio.F_INDIRECT_DESC & ~blk.F_BLK_SIZE
        self.started: list[tuple[int, Sequence[OffloadedQueue]]] = []
        self.stopped: list[Callable[[], None]] = []
        self.kicked: list[int] = []
        self.error = 0

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        if self.error:
            raise OSError(self.error, "no")
        self.started.append((features, queues))

    def stop(self, done: Callable[[], None]) -> None:
        self.stopped.append(done)

    def kick(self, number: int) -> None:
        self.kicked.append(number)


def test_rings_served_elsewhere_are_handed_over() -> None:
    """From DRIVER_OK to the reset the other side has rings, doorbells and vectors."""
    other = Elsewhere()
    driver = started(other, queues=2)
    flags = blk.F_SEG_MAX | blk.F_TOPOLOGY | blk.F_FLUSH | blk.F_DISCARD | blk.F_WRITE_ZEROES | blk.F_MQ
    assert driver.offered == virtio.F_VERSION_1 | virtio.F_EVENT_IDX | flags, "what both can do"
    features, queues = other.started[0]
    assert features == driver.offered
    assert [queue.number for queue in queues] == [0, 1]
    assert [queue.vector for queue in queues] == [1, 2]
    assert [queue.descriptors for queue in queues] == [driver.queues[n].descriptors for n in (0, 1)]
    assert all(queue.doorbell.on_ring is None for queue in queues)
    queues[1].signal()
    assert driver.at.messages.fired == [2]
    driver.status = 0
    assert driver.status != 0
    other.stopped[0]()
    assert driver.status == 0


def test_a_ring_that_breaks_elsewhere_needs_a_reset() -> None:
    """Whoever serves the rings tells, and the driver sees NEEDS_RESET."""
    other = Elsewhere()
    driver = started(other)
    assert other.on_broken is not None
    other.on_broken("queue 0 is broken")
    assert driver.status & virtio.NEEDS_RESET


def test_a_notification_that_came_by_another_way_is_passed_on() -> None:
    """Through the register instead of the ioeventfd."""
    other = Elsewhere()
    driver = started(other)
    bar, start, _ = driver.structures[virtio.CFG_NOTIFY]
    driver.bar_write(bar, start, 2, 0)
    assert 0 in other.kicked


def test_rings_that_cannot_be_handed_over_need_a_reset() -> None:
    """The other side refuses one: it lets go of the others, and the reset has nothing left to stop."""
    other = Elsewhere()
    other.error = errno.EINVAL
    driver = started(other)
    assert driver.status & virtio.NEEDS_RESET
    assert driver.at.logged[0][1] == "offload-refused"
    assert len(other.stopped) == 1
    driver.status = 0
    assert driver.status == 0
    assert len(other.stopped) == 1


def test_queues_before_the_one_that_cannot_be_served_are_not_served_either() -> None:
    """The second ring lies outside RAM for the data path: the first one's thread has ended."""
    memory = NativeMemory()
    disk = ServedDisk(memory, queues=2)
    driver = built(disk, memory, queues=2)
    start = disk._queues.start

    def refuse(ring: Any, **how: Any) -> None:
        if ring.number == 1:
            ring.descriptors = 1 << 40
        start(ring, **how)

    disk._queues.start = refuse  # type: ignore[method-assign]
    driver.start()
    assert driver.status & virtio.NEEDS_RESET
    assert disk._queues._threads == []
    disk.close()
    memory.close()


def test_in_words_of_qemu() -> None:
    """The drive is the engine's; queues and serial are ours."""
    options = {"path": "x", "format": "raw", "queues": 2, "serial": "a,b"}
    node = placed("virtio_blk", "root", "disks", options, virtio_blk.claim("disks.root", options), intx=False)
    words = virtio_blk.qemu(node)
    assert words[0] == "-device"
    assert "drive=disks.root" in words[1]
    assert words[1].endswith("num-queues=2,serial=a,,b")
    assert node.claim.backends[0].options["format"] == "raw"


hostile_request = st.tuples(
    st.one_of(st.sampled_from([0, 1, 4, 8, 11, 13]), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, SECTORS + 2), st.integers(0, 2**64 - 1)),
    st.lists(st.one_of(st.just(512), st.integers(0, 1500)), max_size=3),
    st.lists(st.one_of(st.just(512), st.integers(0, 1500)), max_size=3),
    st.binary(max_size=40),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(hostile_request, max_size=8))
def test_whatever_is_asked_the_disk_keeps_its_size(
    requests: list[tuple[int, int, list[int], list[int], bytes]],
) -> None:
    """Any requests: each is answered once or the device asks for a reset, which always ends."""
    served = Served()
    driver = served.driver
    for kind, sector, readable, writable, body in requests:
        parts = [driver.readable(header(kind, sector)), driver.readable(body)]
        parts += [driver.readable(bytes(length)) for length in readable]
        parts += [driver.writable(length) for length in writable]
        driver.queues[0].add(*parts)
    served.disk.kick(0)
    ring = driver.queues[0]
    served.disk.until(lambda: ring.used_index() == len(requests) or driver.status & virtio.NEEDS_RESET)
    heads = [head for head, _ in ring.used()]
    assert len(heads) == len(set(heads))
    assert served.disk.file.seek(0, 2) == SECTORS * 512
    driver.status = 0
    assert driver.status == 0
    served.close()
