"""virtio-blk on a disk in memory: requests, refusals, errors of the host, flushes that mean it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from struct import pack, unpack_from
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.devices import virtio_blk
from runner.devices.ports import OffloadedQueue
from runner.wire import virtio
from runner.wire import virtio_blk as blk
from tests.unit.virtio_driver import Attachment, Driver, placed

SECTORS = 64


class Disk:
    """BlockBackend on a bytearray; ``held`` keeps completions until :meth:`release`."""

    readonly = False
    block_size = sector = 512
    discards = True

    def __init__(self, capacity: int = SECTORS * 512) -> None:
        self.capacity = capacity
        self.data = bytearray(capacity)
        self.fail: dict[str, int] = {}
        self.held: list[Callable[[], None]] | None = None
        self.log: list[tuple[Any, ...]] = []

    def _finish(self, what: str, done: Callable[[int], None], work: Callable[[], None]) -> None:
        def finish() -> None:
            error = self.fail.get(what, 0)
            if not error:
                work()
            done(error)

        if self.held is None:
            finish()
        else:
            self.held.append(finish)

    def release(self) -> None:
        held, self.held = self.held or [], None
        for finish in held:
            finish()

    def read(self, offset: int, buffers: Sequence[memoryview], done: Callable[[int], None]) -> None:
        self.log.append(("read", offset, sum(map(len, buffers))))

        def work() -> None:
            at = offset
            for view in buffers:
                view[:] = self.data[at : at + len(view)]
                at += len(view)

        self._finish("read", done, work)

    def write(self, offset: int, buffers: Sequence[memoryview], done: Callable[[int], None]) -> None:
        self.log.append(("write", offset, sum(map(len, buffers))))

        def work() -> None:
            data = b"".join(buffers)
            self.data[offset : offset + len(data)] = data

        self._finish("write", done, work)

    def flush(self, done: Callable[[int], None]) -> None:
        self.log.append(("flush",))
        self._finish("flush", done, lambda: None)

    def discard(self, offset: int, length: int, done: Callable[[int], None]) -> None:
        self.log.append(("discard", offset, length))
        self._finish("discard", done, lambda: None)

    def write_zeroes(self, offset: int, length: int, unmap: bool, done: Callable[[int], None]) -> None:
        self.log.append(("zero", offset, length, unmap))

        def work() -> None:
            self.data[offset : offset + length] = bytes(length)

        self._finish("zero", done, work)

    def submit(self) -> None:
        self.log.append(("submit",))


def built(disk: Any, **options: Any) -> Driver:
    options = {"path": "x", "format": "raw", "queues": 1, **options}
    at = Attachment({"disks.root": disk})
    node = placed("virtio_blk", "root", "disks", options, virtio_blk.claim("disks.root", options), intx=False)
    return Driver(virtio_blk.build(node, at), at)


def started(disk: Any, features: int | None = None, **options: Any) -> Driver:
    return built(disk, **options).start(features)


def header(kind: int, sector: int = 0) -> bytes:
    return pack("<IIQ", kind, 0, sector)


def status_of(driver: Driver, status: tuple[int, int, bool]) -> int:
    return driver.memory.read(status[0], 1)[0]


def ask(driver: Driver, kind: int, sector: int, *data: tuple[int, int, bool], queue: int = 0) -> int:
    """One request; its status, or 0xff while it is under way."""
    status = driver.alloc(1, b"\xff"), 1, True
    driver.request(queue, driver.readable(header(kind, sector)), *data, status)
    return status_of(driver, status)


def test_what_is_written_is_read_back() -> None:
    """Data goes to its sector and comes back, in several buffers."""
    disk = Disk()
    driver = started(disk)
    assert ask(driver, blk.T_OUT, 3, driver.readable(b"a" * 300), driver.readable(b"b" * 724)) == blk.S_OK
    assert disk.data[3 * 512 : 5 * 512] == b"a" * 300 + b"b" * 724
    one, two = driver.writable(1000), driver.writable(24)
    assert ask(driver, blk.T_IN, 3, one, two) == blk.S_OK
    assert driver.memory.read(one[0], 1000) + driver.memory.read(two[0], 24) == b"a" * 300 + b"b" * 724


def test_the_used_length_counts_data_and_status() -> None:
    """§2.7.8: what the device wrote, the status byte included."""
    driver = started(Disk())
    back = driver.request(0, driver.readable(header(blk.T_IN)), driver.writable(512), driver.writable(1))
    assert back == [(0, 513)]


def test_any_framing_of_the_header_will_do() -> None:
    """§2.7.4.1: the device must not rely on where one descriptor ends."""
    disk = Disk()
    driver = started(disk)
    raw = header(blk.T_OUT, 1) + b"z" * 512
    status = driver.writable(1)
    driver.request(
        0, driver.readable(raw[:7]), driver.readable(raw[7:100]), driver.readable(raw[100:]), status
    )
    assert disk.data[512:1024] == b"z" * 512
    into = driver.writable(513)
    driver.request(0, driver.readable(header(blk.T_IN, 1)), into)
    assert driver.memory.read(into[0], 513) == b"z" * 512 + b"\0"


@pytest.mark.parametrize("kind", [blk.T_IN, blk.T_OUT])
@pytest.mark.parametrize(
    ("sector", "length"),
    [(SECTORS, 512), (SECTORS - 1, 1024), (2**64 - 1, 512), (2**55, 512), (0, 511), (0, 0)],
)
def test_transfers_outside_the_disk_fail(kind: int, sector: int, length: int) -> None:
    """Past the end, wrapping, not whole sectors or empty: IOERR, and the backend is not asked."""
    disk = Disk()
    driver = started(disk)
    data = (
        [driver.readable(b"x" * length) if kind == blk.T_OUT else driver.writable(length)] if length else []
    )
    assert ask(driver, kind, sector, *data) == blk.S_IOERR
    assert [entry for entry in disk.log if entry != ("submit",)] == []
    assert not driver.status & virtio.NEEDS_RESET


def test_an_error_of_the_host_is_an_error_of_the_request() -> None:
    """ENOSPC and EIO: IOERR for this request, a line in the log, and the guest goes on."""
    disk = Disk()
    driver = started(disk)
    disk.fail = {"write": errno.ENOSPC, "read": errno.EIO}
    assert ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512)) == blk.S_IOERR
    assert ask(driver, blk.T_IN, 0, driver.writable(512)) == blk.S_IOERR
    disk.fail = {}
    assert ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512)) == blk.S_OK
    errors = [data["reason"] for _, event, data in driver.at.logged if event == "disk-error"]
    assert errors == ["No space left on device", "Input/output error"]


def test_an_acknowledged_flush_has_happened() -> None:
    """The answer comes when the backend says that the data is stable, not before."""
    disk = Disk()
    driver = started(disk)
    disk.held = []
    status = driver.alloc(1, b"\xff"), 1, True
    assert driver.request(0, driver.readable(header(blk.T_FLUSH)), status) == []
    assert status_of(driver, status) == 0xFF
    disk.release()
    assert driver.queues[0].used() == [(0, 1)]
    assert status_of(driver, status) == blk.S_OK


def test_after_a_failed_flush_every_flush_fails() -> None:
    """Nobody can tell what was lost, so no later flush may claim success, not even after a reset."""
    disk = Disk()
    driver = started(disk)
    disk.fail = {"flush": errno.EIO}
    assert ask(driver, blk.T_FLUSH, 0) == blk.S_IOERR
    disk.fail = {}
    assert ask(driver, blk.T_FLUSH, 0) == blk.S_IOERR
    driver.start()
    assert ask(driver, blk.T_FLUSH, 0) == blk.S_IOERR
    assert disk.log.count(("flush",)) == 1, "the backend is not asked again"


def test_a_driver_without_flush_gets_write_through() -> None:
    """§5.2.6.2: without FLUSH each write is stable before it is answered."""
    disk = Disk()
    driver = started(disk, features=virtio.F_VERSION_1)
    ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512))
    assert [entry[0] for entry in disk.log if entry[0] != "submit"] == ["write", "flush"]
    disk.fail = {"flush": errno.EIO}
    assert ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512)) == blk.S_IOERR


def test_write_through_offers_no_flush() -> None:
    """cache = "writethrough": the driver is not told of a cache, and writes are stable."""
    disk = Disk()
    driver = started(disk, cache="writethrough")
    assert not driver.offered & blk.F_FLUSH
    ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512))
    assert ("flush",) in disk.log
    assert built(Disk(), cache="writeback").offered & blk.F_FLUSH


def test_a_read_only_disk_says_so_and_means_it() -> None:
    """RO is offered, and a write fails without reaching the backend."""
    disk = Disk()
    disk.readonly = True
    driver = started(disk)
    assert driver.offered & blk.F_RO
    assert not driver.offered & (blk.F_DISCARD | blk.F_FLUSH)
    assert ask(driver, blk.T_OUT, 0, driver.readable(b"x" * 512)) == blk.S_IOERR
    zeroes = driver.readable(pack("<QII", 0, 1, 0))
    assert ask(driver, blk.T_WRITE_ZEROES, 0, zeroes) == blk.S_UNSUPP
    assert [entry for entry in disk.log if entry != ("submit",)] == []


def test_the_serial_number() -> None:
    """GET_ID fills 20 bytes, with zeros after the serial."""
    driver = started(Disk(), serial="root-1")
    into = driver.writable(20)
    assert ask(driver, blk.T_GET_ID, 0, into) == blk.S_OK
    assert driver.memory.read(into[0], 20) == b"root-1".ljust(20, b"\0")


def test_an_unknown_request_is_unsupported() -> None:
    """§5.2.6.1: UNSUPP, and the device lives."""
    driver = started(Disk())
    assert ask(driver, 99, 0) == blk.S_UNSUPP


@pytest.mark.parametrize("parts", [[], [b"short"], None])
def test_a_request_without_header_or_status_needs_a_reset(parts: list[bytes] | None) -> None:
    """There is nowhere to put a status, or nothing to ask for: the driver is broken."""
    driver = started(Disk())
    if parts is None:
        driver.request(0, driver.readable(header(blk.T_FLUSH)))
    else:
        driver.request(0, *map(driver.readable, parts), driver.writable(1))
    assert driver.status & virtio.NEEDS_RESET


def test_discard_and_write_zeroes_reach_the_backend() -> None:
    """Every segment of a request, and one answer for all."""
    disk = Disk()
    disk.data[:] = b"x" * len(disk.data)
    driver = started(disk)
    segments = pack("<QIIQII", 1, 2, 1, 8, 1, 0)
    assert ask(driver, blk.T_WRITE_ZEROES, 0, driver.readable(segments)) == blk.S_OK
    assert disk.log[1:3] == [("zero", 512, 1024, True), ("zero", 4096, 512, False)]
    assert disk.data[512:1536] == bytes(1024)
    assert ask(driver, blk.T_DISCARD, 0, driver.readable(pack("<QII", 4, 4, 0))) == blk.S_OK
    assert ("discard", 2048, 2048) in disk.log


@pytest.mark.parametrize(
    ("segments", "status"),
    [
        (pack("<QII", SECTORS, 1, 0), blk.S_IOERR),
        (pack("<QII", 2**64 - 1, 2, 0), blk.S_IOERR),
        (pack("<QII", 0, 0, 0), blk.S_IOERR),
        (pack("<QII", 0, 1, 1), blk.S_UNSUPP),
        (pack("<QII", 0, virtio_blk.DISCARD_SECTORS + 1, 0), blk.S_IOERR),
        (pack("<QII", 0, 1, 0) + b"x", blk.S_IOERR),
        (pack("<QII", 0, 1, 0) * (virtio_blk.DISCARD_SEGMENTS + 1), blk.S_IOERR),
        (b"", blk.S_IOERR),
    ],
)
def test_bad_discards_are_refused_as_a_whole(segments: bytes, status: int) -> None:
    """Bounds, flags, number and shape of segments are checked before the backend hears of any."""
    disk = Disk()
    driver = started(disk)
    good = pack("<QII", 0, 1, 0) if segments and not len(segments) % 16 else b""
    data = [driver.readable(good + segments)] if segments else []
    assert ask(driver, blk.T_DISCARD, 0, *data) == status
    assert [entry for entry in disk.log if entry[0] == "discard"] == []


def test_a_part_that_fails_fails_the_request() -> None:
    """The first error of several segments is the answer."""
    disk = Disk()
    driver = started(disk)
    disk.fail = {"discard": errno.EIO}
    assert ask(driver, blk.T_DISCARD, 0, driver.readable(pack("<QIIQII", 1, 2, 0, 8, 1, 0))) == blk.S_IOERR
    disk.fail = {"discard": errno.EOPNOTSUPP}
    assert ask(driver, blk.T_DISCARD, 0, driver.readable(pack("<QII", 1, 2, 0))) == blk.S_UNSUPP


def test_requests_complete_in_any_order() -> None:
    """A later request may be answered first; each gets its own answer."""
    disk = Disk()
    driver = started(disk)
    disk.held = []
    heads = [
        driver.queues[0].add(
            driver.readable(header(blk.T_IN, sector)), driver.writable(512), driver.writable(1)
        )
        for sector in range(3)
    ]
    driver.kick(0)
    for finish in reversed(disk.held):
        finish()
    assert [head for head, _ in driver.queues[0].used()] == heads[::-1]


def test_one_interrupt_answers_a_batch() -> None:
    """Requests that are answered while the batch is started share an interrupt, and one submit."""
    disk = Disk()
    driver = started(disk)
    for sector in range(5):
        driver.queues[0].add(
            driver.readable(header(blk.T_IN, sector)), driver.writable(512), driver.writable(1)
        )
    driver.kick(0)
    assert len(driver.queues[0].used()) == 5
    assert driver.at.messages.fired == [1]
    assert disk.log[-1] == ("submit",)
    assert disk.log.count(("submit",)) == 2, "one when the device went live, one for the batch"


def test_reset_waits_for_what_is_under_way() -> None:
    """Guest memory is read and written until the last completion, so the status is zero only then."""
    disk = Disk()
    driver = started(disk)
    disk.held = []
    ask(driver, blk.T_IN, 0, driver.writable(512))
    ask(driver, blk.T_OUT, 1, driver.readable(b"y" * 512))
    queue = driver.queues[0]
    driver.status = 0
    assert driver.status != 0
    disk.release()
    assert driver.status == 0
    assert queue.used_index() == 0
    driver.start()
    assert ask(driver, blk.T_IN, 1, driver.writable(512)) == blk.S_OK


def test_several_queues_answer_for_themselves() -> None:
    """queues = 4: MQ is offered, and each queue has its own vector."""
    driver = started(Disk(), queues=4)
    assert driver.offered & blk.F_MQ
    assert driver.device_config(34, 2) == 4
    assert ask(driver, blk.T_IN, 0, driver.writable(512), queue=3) == blk.S_OK
    assert driver.at.messages.fired == [4]


def test_the_configuration_tells_the_disks_shape() -> None:
    """§5.2.4: capacity in sectors, whole ones only, segments, block size, limits."""
    disk = Disk(100 * 512 + 100)
    disk.block_size = 4096
    driver = started(disk)
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
    assert ask(driver, blk.T_IN, 100, driver.writable(512)) == blk.S_IOERR


def test_a_disk_with_sectors_of_4096_bytes_is_shown_as_it_is() -> None:
    """Its partition table counts in them; the alignment of a discard is still told in 512 bytes."""
    disk = Disk(64 << 10)
    disk.block_size = disk.sector = 4096
    driver = started(disk)
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
    discards = False
    config = b""
    on_broken: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.features = virtio.F_VERSION_1 | virtio.F_EVENT_IDX | blk.F_SEG_MAX | blk.F_FLUSH
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
    assert driver.offered == other.features
    features, queues = other.started[0]
    assert features == other.features
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
    """The other side refuses: NEEDS_RESET and a line in the log, and nothing to stop."""
    other = Elsewhere()
    other.error = errno.EINVAL
    driver = started(other)
    assert driver.status & virtio.NEEDS_RESET
    assert driver.at.logged[0][1] == "offload-refused"
    driver.status = 0
    assert driver.status == 0
    assert other.stopped == []


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


@settings(max_examples=150, deadline=None)
@given(
    st.lists(hostile_request, max_size=8), st.booleans(), st.sets(st.sampled_from(["read", "write", "flush"]))
)
def test_whatever_is_asked_the_disk_keeps_its_size(
    requests: list[tuple[int, int, list[int], list[int], bytes]], held: bool, failing: set[str]
) -> None:
    """Any requests: each is answered once, nothing outside the disk, and the reset always ends."""
    disk = Disk()
    disk.fail = dict.fromkeys(failing, errno.EIO)
    driver = started(disk)
    if held:
        disk.held = []
    for kind, sector, readable, writable, body in requests:
        parts = [driver.readable(header(kind, sector)), driver.readable(body)]
        parts += [driver.readable(bytes(length)) for length in readable]
        parts += [driver.writable(length) for length in writable]
        driver.queues[0].add(*parts)
    driver.kick(0)
    for entry in disk.log:
        if entry[0] in ("read", "write", "zero", "discard"):
            assert entry[1] + entry[2] <= disk.capacity
            assert entry[2] % 512 == 0
    if held and requests:
        driver.status = 0
        disk.release()
        assert driver.status == 0
    elif not driver.status & virtio.NEEDS_RESET:
        assert len(driver.queues[0].used()) == len(requests)
    assert len(disk.data) == SECTORS * 512
