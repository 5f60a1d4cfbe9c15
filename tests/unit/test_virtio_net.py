"""virtio-net on a backend in memory: frames both ways, headers, offloads, several queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import pack, unpack_from
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.devices import virtio_net
from runner.devices.ports import OffloadedQueue
from runner.wire import virtio
from runner.wire import virtio_net as wire
from tests.unit.virtio_driver import Attachment, Driver, placed

MAC = "52:54:00:12:34:56"


class Frames:
    """FrameQueue: ``sent`` by the guest, ``arriving`` from the host."""

    def __init__(self, header_size: int) -> None:
        self.header_size = header_size
        self.sent: list[bytes] = []
        self.arriving: list[bytes] = []
        self.room = 1 << 30
        self.readable: Callable[[], None] | None = None
        self.writable: Callable[[], None] | None = None

    def send(self, parts: Sequence[memoryview]) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.sent.append(b"".join(parts))
        return True

    def receive(self, into: memoryview) -> int:
        if not self.arriving:
            return 0
        frame = self.arriving.pop(0)[: len(into)]
        into[: len(frame)] = frame
        return len(frame)

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        self.readable = callback

    def on_writable(self, callback: Callable[[], None]) -> None:
        self.writable = callback

    def arrive(self, *frames: bytes) -> None:
        """Frames come, and the loop calls as long as somebody listens."""
        self.arriving += frames
        while self.arriving and self.readable:
            before = len(self.arriving)
            self.readable()
            if len(self.arriving) == before:
                break


class Net:
    """NetBackend with ``pairs`` queues."""

    def __init__(self, pairs: int = 1, *, tap: bool = True) -> None:
        self.queues = [Frames(wire.HEADER_SIZE if tap else 0) for _ in range(pairs)]
        self.offloads = tap
        self.flags = -1
        self.pairs = 0

    def set_offloads(self, flags: int) -> None:
        self.flags = flags

    def set_pairs(self, count: int) -> None:
        self.pairs = count


def built(net: Net, vhost: Any = None, **options: Any) -> Driver:
    kind = "tap" if net.offloads else "user"
    options = {
        "backend": kind,
        "mac": MAC,
        "queues": len(net.queues),
        "mtu": 1500,
        "offload": True,
        **options,
    }
    at = Attachment({"net.lan": net, "net.lan.vhost": vhost})
    node = placed("virtio_net", "lan", "net", options, virtio_net.claim("net.lan", options), intx=False)
    return Driver(virtio_net.build(node, at), at)


def started(net: Net, features: int | None = None, **options: Any) -> Driver:
    return built(net, **options).start(features)


def header(flags: int = 0, gso: int = 0) -> bytes:
    return pack("<BBHHHHH", flags, gso, 54, 1460, 34, 16, 0)


EMPTY = bytes(wire.HEADER_SIZE)
FRAME = b"\xff" * 6 + b"\x52\x54\0\0\0\1" + b"\x08\0" + b"payload" * 20


def test_a_frame_goes_out_with_its_header() -> None:
    """A tap gets header and frame, however they were cut."""
    net = Net()
    driver = started(net)
    raw = header(1) + FRAME
    driver.request(1, driver.readable(raw[:5]), driver.readable(raw[5:30]), driver.readable(raw[30:]))
    assert net.queues[0].sent == [raw]


def test_without_a_header_in_the_backend_only_the_frame_goes_out() -> None:
    """passt knows no virtio header."""
    net = Net(tap=False)
    driver = started(net)
    assert not driver.offered & wire.OFFLOADS
    driver.request(1, driver.readable(EMPTY + FRAME))
    assert net.queues[0].sent == [FRAME]


def test_a_header_that_was_not_negotiated_is_emptied() -> None:
    """Without CSUM the tap gets no flags from the guest."""
    net = Net()
    driver = started(net, features=virtio.F_VERSION_1)
    driver.request(1, driver.readable(header(1, 4) + FRAME))
    assert net.queues[0].sent == [EMPTY + FRAME]


@pytest.mark.parametrize("length", [0, 1, 11, 12, 12 + wire.LARGEST_FRAME + 1])
def test_row_13_what_is_no_frame_is_dropped(length: int) -> None:
    """Device-bugs 13: shorter than its header, empty, or longer than any frame: given back unsent."""
    net = Net()
    driver = started(net)
    parts = [driver.readable(bytes(length))] if length else [driver.writable(4)]
    assert driver.request(1, *parts) == [(0, 0)]
    assert net.queues[0].sent == []
    assert not driver.status & virtio.NEEDS_RESET


def test_a_full_backend_holds_frames_back_in_order() -> None:
    """No room: the frame stays in the ring, and goes out when there is room again."""
    net = Net()
    driver = started(net)
    queue = net.queues[0]
    queue.room = 1
    for number in range(3):
        driver.queues[1].add(driver.readable(EMPTY + bytes((number,)) * 60))
    driver.kick(1)
    assert [frame[12] for frame in queue.sent] == [0]
    driver.kick(1)
    queue.room = 5
    assert queue.writable is not None
    queue.writable()
    assert [frame[12] for frame in queue.sent] == [0, 1, 2]
    assert [head for head, _ in driver.queues[1].used()] == [0, 1, 2]


def test_a_frame_comes_in_with_its_header() -> None:
    """Header, number of buffers and frame are in one chain; the length counts all."""
    net = Net()
    driver = started(net)
    buffer = driver.writable(2048)
    driver.queues[0].add(buffer)
    driver.kick(0)
    net.queues[0].arrive(header(2) + FRAME)
    assert driver.queues[0].used() == [(0, 12 + len(FRAME))]
    got = driver.memory.read(buffer[0], 12 + len(FRAME))
    assert got[:10] == header(2)[:10]
    assert unpack_from("<H", got, 10) == (1,)
    assert got[12:] == FRAME
    assert driver.at.messages.fired == [1]


def test_a_backend_without_headers_gets_an_empty_one() -> None:
    """passt's frames arrive behind twelve bytes that say nothing but the number of buffers."""
    net = Net(tap=False)
    driver = started(net)
    buffer = driver.writable(2048)
    driver.queues[0].add(buffer)
    driver.kick(0)
    net.queues[0].arrive(FRAME)
    assert driver.memory.read(buffer[0], 12 + len(FRAME)) == bytes(10) + b"\1\0" + FRAME


def test_a_large_frame_is_merged_over_buffers() -> None:
    """MRG_RXBUF: several chains, counted in the first one's header before any is given back."""
    net = Net()
    driver = started(net)
    buffers = [driver.writable(100) for _ in range(4)]
    for buffer in buffers:
        driver.queues[0].add(buffer)
    driver.kick(0)
    frame = bytes(range(250))
    net.queues[0].arrive(EMPTY + frame)
    assert driver.queues[0].used() == [(0, 100), (1, 100), (2, 62)]
    got = b"".join(driver.memory.read(buffer[0], 100) for buffer in buffers[:3])
    assert unpack_from("<H", got, 10) == (3,)
    assert got[12:262] == frame


def test_row_13_a_frame_is_whole_before_its_first_buffer_is_given_back() -> None:
    """Device-bugs 13: a buffer that is back is the driver's again, and nobody writes to it any more."""
    net = Net()
    driver = started(net)
    buffers = [driver.writable(100) for _ in range(3)]
    for buffer in buffers:
        driver.queues[0].add(buffer)
    driver.kick(0)
    ring = driver.built.transport.device.queues[0]
    push, seen = ring.push, []

    def pushed(*given: Any) -> None:
        seen.append(b"".join(driver.memory.read(buffer[0], 100) for buffer in buffers))
        push(*given)

    ring.push = pushed
    net.queues[0].arrive(EMPTY + bytes(range(1, 251)))
    assert [unpack_from("<H", raw, 10) for raw in seen] == [(3,)] * 3
    assert [raw[12:262] for raw in seen] == [bytes(range(1, 251))] * 3


def test_frames_wait_for_buffers() -> None:
    """Without room the backend is not read; a frame that was already read waits, and order is kept."""
    net = Net()
    driver = started(net)
    queue = net.queues[0]
    queue.arrive(EMPTY + b"a" * 60, EMPTY + b"b" * 60, EMPTY + b"c" * 60)
    assert queue.readable is None
    assert len(queue.arriving) == 2
    for _ in range(3):
        driver.queues[0].add(driver.writable(200))
    driver.kick(0)
    assert queue.readable is not None
    assert len(driver.queues[0].used()) == 3
    firsts = [driver.memory.read(address, 13)[12:] for address in _buffers(driver)]
    assert firsts == [b"a", b"b", b"c"]


def _buffers(driver: Driver) -> list[int]:
    table = driver.queues[0].descriptors
    return [unpack_from("<Q", driver.memory.read(table + 16 * index, 8))[0] for index in range(3)]


def test_a_merged_frame_waits_for_enough_buffers() -> None:
    """Half of the room is no room: nothing is given back until the frame fits."""
    net = Net()
    driver = started(net)
    driver.queues[0].add(driver.writable(100))
    driver.kick(0)
    net.queues[0].arrive(EMPTY + b"x" * 150)
    assert driver.queues[0].used() == []
    driver.queues[0].add(driver.writable(100))
    driver.kick(0)
    assert driver.queues[0].used() == [(0, 100), (1, 62)]


def test_row_13_a_buffer_without_room_for_the_header_is_an_error() -> None:
    """Device-bugs 13: the header's size is fixed by the features, and every chain must hold it."""
    net = Net()
    driver = started(net)
    driver.queues[0].add(driver.writable(11))
    driver.kick(0)
    net.queues[0].arrive(EMPTY + FRAME)
    assert driver.status & virtio.NEEDS_RESET


def test_without_merging_a_frame_that_does_not_fit_is_dropped() -> None:
    """One chain a frame; too small a chain is given back empty, and the next frame has its turn."""
    net = Net()
    driver = started(net, features=virtio.F_VERSION_1)
    driver.queues[0].add(driver.writable(50))
    driver.queues[0].add(driver.writable(500))
    driver.kick(0)
    net.queues[0].arrive(EMPTY + b"x" * 60, EMPTY + b"y" * 60)
    assert driver.queues[0].used() == [(0, 0), (1, 72)]


def test_a_frame_larger_than_the_whole_ring_is_dropped() -> None:
    """Otherwise nothing would ever come in again."""
    net = Net()
    driver = built(net)
    driver.start(sizes={0: 2})
    for _ in range(2):
        driver.queues[0].add(driver.writable(64))
    driver.kick(0)
    net.queues[0].arrive(EMPTY + b"x" * 300, EMPTY + b"y" * 20)
    assert driver.queues[0].used() == [(0, 32)]


def test_one_call_moves_so_many_frames_and_no_more() -> None:
    """A flood from the host leaves the device's thread to others now and then."""
    net = Net()
    driver = started(net)
    for _ in range(200):
        driver.queues[0].add(driver.writable(100))
    driver.kick(0)
    queue = net.queues[0]
    queue.arriving = [EMPTY + FRAME[:60]] * 100
    assert queue.readable is not None
    queue.readable()
    assert len(queue.arriving) == 100 - virtio_net.FRAMES_A_CALL


def test_offloads_follow_what_the_driver_took() -> None:
    """TUNSETOFFLOAD gets exactly the accepted ones, and none without checksums."""
    net = Net()
    driver = started(net)
    assert net.flags == 0x0F
    driver.start(virtio.F_VERSION_1 | wire.F_GUEST_CSUM | wire.F_GUEST_TSO6)
    assert net.flags == 0x05
    driver.start(virtio.F_VERSION_1 | wire.F_GUEST_TSO4)
    assert net.flags == 0
    assert not built(Net(), offload=False).offered & wire.OFFLOADS


def test_the_configuration_has_mac_link_and_mtu() -> None:
    """§5.1.4."""
    driver = started(Net(), mtu=1400)
    assert bytes(driver.device_config(at, 1) for at in range(6)) == bytes.fromhex("525400123456")
    assert driver.device_config(6, 2) == wire.STATUS_LINK_UP
    assert driver.device_config(10, 2) == 1400


def command(driver: Driver, raw: bytes, queue: int) -> int:
    answer = driver.writable(1)
    driver.memory.write(answer[0], b"\xff")  # no answer
    driver.request(queue, driver.readable(raw), answer)
    return driver.memory.read(answer[0], 1)[0]


def test_the_driver_chooses_how_many_pairs_are_in_use() -> None:
    """§5.1.6.5.6: one after activation; then what is asked for, within bounds."""
    net = Net(4)
    driver = started(net)
    assert driver.offered & wire.F_MQ
    assert driver.device_config(8, 2) == 4
    assert net.pairs == 1
    assert command(driver, b"\4\0\3\0", 8) == wire.CONTROL_OK
    assert net.pairs == 3
    for raw in (b"\4\0\0\0", b"\4\0\5\0", b"\4\1\1\0", b"\0\0\1\0", b"\4\0\1", b""):
        assert command(driver, raw, 8) == wire.CONTROL_ERROR
    assert net.pairs == 3


ONE_PAIR = virtio.F_VERSION_1 | wire.F_CTRL_VQ


def test_without_mq_the_control_queue_is_behind_the_first_pair() -> None:
    """§5.1.2: its index is 2 then, however many pairs we have; the others move nothing."""
    net = Net(4)
    driver = started(net, ONE_PAIR)
    assert command(driver, b"\4\0\1\0", 2) == wire.CONTROL_OK
    assert command(driver, b"\4\0\2\0", 2) == wire.CONTROL_ERROR
    assert driver.request(8, driver.readable(b"\4\0\1\0"), driver.writable(1)) == []
    assert driver.request(3, driver.readable(EMPTY + FRAME)) == []
    assert [queue.sent for queue in net.queues] == [[]] * 4
    driver.next_free = 0x1000
    driver.start()
    assert command(driver, b"\4\0\2\0", 8) == wire.CONTROL_OK


def test_a_command_without_room_for_an_answer_is_an_error() -> None:
    """§5.1.6.5: every command has an ack byte."""
    driver = started(Net(2))
    driver.request(4, driver.readable(b"\4\0\1\0"))
    assert driver.status & virtio.NEEDS_RESET


def test_every_pair_moves_frames() -> None:
    """Queue 2n receives and 2n + 1 sends for the backend's queue n."""
    net = Net(2)
    driver = started(net)
    driver.request(3, driver.readable(EMPTY + FRAME))
    assert net.queues[1].sent == [EMPTY + FRAME]
    driver.queues[2].add(driver.writable(2048))
    driver.kick(2)
    net.queues[1].arrive(EMPTY + FRAME)
    assert len(driver.queues[2].used()) == 1


def test_after_a_reset_frames_go_nowhere_until_the_next_start() -> None:
    """Reset at any moment: the backend is not listened to, and a pending frame is gone."""
    net = Net()
    driver = started(net)
    net.queues[0].arrive(EMPTY + b"old" * 30)
    driver.status = 0
    assert net.queues[0].readable is None
    driver.start()
    buffer = driver.writable(2048)
    driver.queues[0].add(buffer)
    driver.kick(0)
    assert driver.queues[0].used() == []
    net.queues[0].arrive(EMPTY + FRAME)
    assert driver.memory.read(buffer[0] + 12, len(FRAME)) == FRAME


class Vhost:
    """QueueOffload."""

    features = virtio.F_VERSION_1 | virtio.F_INDIRECT_DESC | wire.F_MRG_RXBUF
    config = b""
    on_broken: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.started: list[tuple[int, Sequence[OffloadedQueue]]] = []
        self.stopped = 0
        self.kicked: list[int] = []

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        self.started.append((features, queues))

    def stop(self, done: Callable[[], None]) -> None:
        self.stopped += 1
        done()

    def kick(self, number: int) -> None:
        self.kicked.append(number)


def test_vhost_serves_the_data_queues_and_we_the_control_queue() -> None:
    """Features are what both can do; offloads are the tap's business."""
    net, vhost = Net(2), Vhost()
    driver = built(net, vhost)
    assert driver.offered & wire.OFFLOADS == wire.OFFLOADS
    assert not driver.offered & virtio.F_EVENT_IDX
    driver.start()
    features, queues = vhost.started[0]
    assert features & wire.F_MRG_RXBUF
    assert [queue.number for queue in queues] == [0, 1, 2, 3]
    assert all(queue.doorbell.on_ring is None for queue in queues)
    assert command(driver, b"\4\0\2\0", 4) == wire.CONTROL_OK
    assert (net.pairs, net.flags) == (2, 0x0F)
    bar, start, _ = driver.structures[virtio.CFG_NOTIFY]
    driver.bar_write(bar, start + 4, 2, 1)
    assert vhost.kicked[-1] == 1
    driver.status = 0
    assert vhost.stopped == 1
    assert driver.status == 0


def test_without_mq_vhost_does_not_get_the_control_queue() -> None:
    """Queue 2 is vhost's in one life of the driver and ours in the next, with its doorbell."""
    net, vhost = Net(2), Vhost()
    driver = built(net, vhost).start(ONE_PAIR)
    assert [queue.number for queue in vhost.started[0][1]] == [0, 1]
    assert command(driver, b"\4\0\1\0", 2) == wire.CONTROL_OK
    bar, start, _ = driver.structures[virtio.CFG_NOTIFY]
    driver.bar_write(bar, start + 4 * 3, 2, 3)
    assert 3 not in vhost.kicked
    driver.next_free = 0x1000
    driver.start()
    assert [queue.number for queue in vhost.started[1][1]] == [0, 1, 2, 3]
    assert command(driver, b"\4\0\2\0", 4) == wire.CONTROL_OK


def test_a_vhost_that_cannot_merge_takes_the_feature_away() -> None:
    """MRG_RXBUF changes how rings are used, so it is the server's to offer."""
    vhost = Vhost()
    vhost.features = virtio.F_VERSION_1
    assert not built(Net(), vhost).offered & wire.F_MRG_RXBUF


def test_a_derived_mac_is_stable_local_and_unicast() -> None:
    """The same names give the same address; other names another; a stated one is kept."""
    one = virtio_net.derive("web", "net.lan", {})["mac"]
    assert one == virtio_net.derived_mac("web", "net.lan")
    assert len({virtio_net.derived_mac(vm, nic) for vm in "ab" for nic in "xy"}) == 4
    assert int(str(one)[:2], 16) & 3 == 2
    assert virtio_net.derive("web", "net.lan", {"mac": MAC})["mac"] == MAC


def test_claims_follow_the_backend() -> None:
    """A tap brings vhost and a queue pair each; passt has one pair and no control queue."""
    tap = virtio_net.claim("net.lan", {"backend": "tap", "queues": 4})
    assert [backend.kind for backend in tap.backends] == ["tap", "vhost-net"]
    assert tap.backends[1].options == {"tap": "net.lan"}
    assert tap.pci is not None
    assert tap.pci.msix_vectors == 10
    user = virtio_net.claim("net.lan", {"backend": "user", "queues": 4})
    assert [backend.kind for backend in user.backends] == ["passt"]
    assert user.pci is not None
    assert user.pci.msix_vectors == 3


def test_in_words_of_qemu() -> None:
    """The netdev is the engine's; MAC, MTU, queues and offloads are ours."""
    options = {"backend": "tap", "mac": MAC, "queues": 2, "mtu": 1400, "offload": False}
    node = placed("virtio_net", "lan", "net", options, virtio_net.claim("net.lan", options), intx=False)
    words = virtio_net.qemu(node)[1]
    assert f"netdev=net.lan,disable-legacy=on,mac={MAC},host_mtu=1400,mq=on,vectors=6,csum=off" in words


@settings(max_examples=120, deadline=None)
@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(["tx", "rx", "arrive", "room"]),
            st.lists(st.integers(0, 400), min_size=1, max_size=3),
        ),
        max_size=30,
    ),
)
def test_whatever_comes_frames_stay_whole_and_in_order(
    mergeable: bool, steps: list[tuple[str, list[int]]]
) -> None:
    """Any mixture of requests and arrivals: what is received is a prefix of what arrived, unbroken."""
    net = Net()
    driver = started(net, features=virtio.F_VERSION_1 | (wire.F_MRG_RXBUF if mergeable else 0))
    buffers: dict[int, int] = {}
    arrived: list[bytes] = []
    for what, numbers in steps:
        if what == "tx" and len(driver.queues[1].free) > 3:
            driver.request(1, *[driver.readable(b"t" * (length + 1)) for length in numbers])
        elif what == "rx":
            for length in numbers:
                if driver.queues[0].free:
                    buffer = driver.writable(length + 12)
                    buffers[driver.queues[0].add(buffer)] = buffer[0]
            driver.kick(0)
        elif what == "arrive":
            for length in numbers:
                arrived.append(bytes((len(arrived) & 0xFF,)) * (length + 14))
                net.queues[0].arrive(EMPTY + arrived[-1])
        else:
            net.queues[0].room = numbers[0] & 3
            if net.queues[0].room and net.queues[0].writable:
                net.queues[0].writable()
    assert not driver.status & virtio.NEEDS_RESET
    back = [(head, length) for head, length in driver.queues[0].used() if length]
    at = 0
    while back:
        first, _ = back[0]
        (count,) = unpack_from("<H", driver.memory.read(buffers[first] + 10, 2))
        raw = b"".join(driver.memory.read(buffers[head], length) for head, length in back[:count])
        assert raw[12:] in arrived[at:]
        at = arrived.index(raw[12:], at) + 1
        back = back[count:]
