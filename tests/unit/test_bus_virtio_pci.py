"""The virtio transport on PCI: negotiation, queue set-up, notifications, reset, and rule-breaking drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtio_status import PREREQUISITES, advance
from runner.bus.virtqueue import SplitQueue
from runner.wire import pci, virtio
from tests.unit.virtio_driver import Attachment, Driver, placed

FEATURE = 1 << 5


class Echo(VirtioModel):
    """Counts bytes back; ``slow`` keeps its reset until told."""

    device_id = 42
    features = FEATURE
    queue_sizes = (16, 8)
    config = bytes(range(16))

    def __init__(self) -> None:
        self.written: list[tuple[int, int, int]] = []
        self.active: dict[int, SplitQueue] = {}
        self.accepted = 0
        self.resets: list[Callable[[], None]] = []
        self.slow = False

    def write_config(self, offset: int, size: int, value: int) -> None:
        self.written.append((offset, size, value))

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        super().activate(features, queues)
        self.active, self.accepted = dict(queues), features

    def notify(self, queue: int) -> None:
        for chain in self.queues[queue].chains():
            self.queues[queue].push(chain, chain.writable_length)
        self.queues[queue].interrupt()

    def reset(self, done: Callable[[], None]) -> None:
        self.resets.append(done)
        if not self.slow:
            done()


def made(*, msix: bool = True) -> tuple[Driver, Echo]:
    device = Echo()
    at = Attachment()
    node = placed("echo", "echo", "", {}, virtio_pci.claim(42, 0xFF0000, 2), intx=not msix)
    return Driver(virtio_pci.VirtioPciFunction(node, at, device), at, msix=msix), device


OK = virtio.ACKNOWLEDGE | virtio.DRIVER | virtio.FEATURES_OK | virtio.DRIVER_OK


def test_the_function_is_a_modern_virtio_device() -> None:
    """§4.1.2: vendor 1af4, device 1040 + id, revision 1 and a subsystem id from 40 on."""
    driver, _ = made()
    assert driver.config_read(0, 4) == (0x1040 + 42) << 16 | 0x1AF4
    assert driver.config_read(pci.REVISION_ID, 1) >= 1
    assert driver.config_read(pci.SUBSYSTEM_ID, 2) >= 0x40


def test_all_structures_are_found_and_lie_in_their_bar() -> None:
    """§4.1.4: one capability each, inside BAR 0 and apart."""
    driver, _ = made()
    wanted = {virtio.CFG_COMMON, virtio.CFG_NOTIFY, virtio.CFG_ISR, virtio.CFG_DEVICE, virtio.CFG_PCI}
    assert set(driver.structures) == wanted
    spans = sorted(driver.structures[kind][1:] for kind in wanted - {virtio.CFG_PCI})
    for (start, length), (after, _) in zip(spans, [*spans[1:], (virtio_pci.REGISTERS_SIZE, 0)], strict=True):
        assert start + length <= after


def test_a_driver_gets_to_driver_ok() -> None:
    """The usual way works, and the device has what was negotiated."""
    driver, device = made()
    driver.start()
    assert driver.status == OK
    assert device.accepted == FEATURE | virtio.RING_FEATURES
    assert set(device.active) == {0, 1}
    assert driver.request(1, driver.writable(3)) == [(0, 3)]
    assert driver.at.messages.fired == [2]


def test_features_that_were_not_offered_are_not_ok() -> None:
    """§3.1.1 step 6: FEATURES_OK does not stick."""
    driver, _ = made()
    driver.negotiate(driver.offered | 1 << 6)
    assert not driver.status & virtio.FEATURES_OK


def test_a_driver_without_version_1_is_turned_away() -> None:
    """Modern only (§6.1)."""
    driver, _ = made()
    driver.negotiate(FEATURE)
    assert not driver.status & virtio.FEATURES_OK


def test_features_are_settled_by_features_ok() -> None:
    """§3.1.1: nothing is accepted after FEATURES_OK."""
    driver, _ = made()
    driver.negotiate(virtio.F_VERSION_1)
    driver.accept(driver.offered)
    assert driver.built.transport.accepted == virtio.F_VERSION_1


def test_features_beyond_64_bits_are_zero() -> None:
    """A select outside the two words reads zero and writes nothing."""
    driver, _ = made()
    driver.set(virtio.COMMON_DEVICE_FEATURE_SELECT, 4, 2)
    assert driver.get(virtio.COMMON_DEVICE_FEATURE, 4) == 0
    driver.status = virtio.ACKNOWLEDGE
    driver.status = virtio.ACKNOWLEDGE | virtio.DRIVER
    driver.set(virtio.COMMON_DRIVER_FEATURE_SELECT, 4, 77)
    driver.set(virtio.COMMON_DRIVER_FEATURE, 4, 0xFFFFFFFF)
    assert driver.built.transport.accepted == 0


@given(st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=12))
def test_the_status_only_grows_and_in_order(steps: list[tuple[int, bool]]) -> None:
    """§2.1: whatever is written, each bit is there only with its prerequisites."""
    status = 0
    for written, acceptable in steps:
        before, status = status, advance(status, written, acceptable)
        assert status & before == before
        for bit, needs in PREREQUISITES:
            assert not status & bit or status & needs == needs


def test_row_7_queue_registers_are_immutable_after_driver_ok() -> None:
    """Device-bugs 7: no register of a queue changes once the device is live."""
    driver, _ = made()
    driver.negotiate()
    driver.set_up(0)
    driver.status |= virtio.DRIVER_OK
    for number in (0, 1):
        driver.set(virtio.COMMON_QUEUE_SELECT, 2, number)
        registers = [(virtio.COMMON_QUEUE_SIZE, 2), (virtio.COMMON_QUEUE_ENABLE, 2)]
        registers += [(virtio.COMMON_QUEUE_DESC + 4 * word, 4) for word in range(6)]
        before = [driver.get(*register) for register in registers]
        for register, size in registers:
            driver.set(register, size, 1)
            driver.set(register, size, 4)
        assert [driver.get(*register) for register in registers] == before


def test_row_7_an_enabled_queue_cannot_be_moved() -> None:
    """Device-bugs 7: from queue_enable on, even before DRIVER_OK."""
    driver, _ = made()
    driver.negotiate()
    queue = driver.set_up(0)
    driver.set(virtio.COMMON_QUEUE_DESC, 4, 0xDEAD0000)
    driver.set(virtio.COMMON_QUEUE_ENABLE, 2, 0)
    assert driver.get(virtio.COMMON_QUEUE_DESC, 4) == queue.descriptors
    assert driver.get(virtio.COMMON_QUEUE_ENABLE, 2) == 1


def test_row_10_a_queue_that_is_not_there_is_nothing() -> None:
    """Device-bugs 10: queue_select out of bounds reads zero and writes nowhere."""
    driver, _ = made()
    driver.negotiate()
    for number in (2, 255, 0xFFFF):
        driver.set(virtio.COMMON_QUEUE_SELECT, 2, number)
        for register in (virtio.COMMON_QUEUE_SIZE, virtio.COMMON_QUEUE_VECTOR, virtio.COMMON_QUEUE_ENABLE):
            driver.set(register, 2, 1)
            assert driver.get(register, 2) == 0
        driver.set(virtio.COMMON_QUEUE_DESC, 4, 0x1000)
        assert driver.get(virtio.COMMON_QUEUE_DESC, 4) == 0


@pytest.mark.parametrize("size", [0, 3, 32, 0xFFFF])
def test_a_queue_size_that_cannot_be_is_not_taken(size: int) -> None:
    """A power of two up to what the device offers."""
    driver, _ = made()
    driver.negotiate()
    driver.set(virtio.COMMON_QUEUE_SELECT, 2, 0)
    driver.set(virtio.COMMON_QUEUE_SIZE, 2, size)
    assert driver.get(virtio.COMMON_QUEUE_SIZE, 2) == 16


def test_a_vector_that_is_not_there_reads_back_as_none() -> None:
    """§4.1.5.1.2: the driver sees that its vector was not taken."""
    driver, _ = made()
    for register in (virtio.COMMON_CONFIG_VECTOR, virtio.COMMON_QUEUE_VECTOR):
        driver.set(register, 2, 2)
        assert driver.get(register, 2) == 2
        driver.set(register, 2, 3)
        assert driver.get(register, 2) == virtio.NO_VECTOR


def test_registers_have_one_width() -> None:
    """§4.1.3.1: an access of another width reads zero and writes nothing."""
    driver, _ = made()
    driver.set(virtio.COMMON_STATUS, 4, virtio.ACKNOWLEDGE)
    assert driver.status == 0
    driver.status = virtio.ACKNOWLEDGE
    assert driver.get(virtio.COMMON_STATUS, 2) == 0
    assert driver.get(0x200, 4) == 0


def test_the_devices_configuration_is_reached() -> None:
    """Reads of any width, zero past the end; writes go to the device."""
    driver, device = made()
    assert driver.device_config(4, 4) == 0x07060504
    assert driver.device_config(15, 2) == 15
    assert driver.device_config(0x800, 8) == 0
    driver.set_device_config(2, 1, 9)
    assert device.written == [(2, 1, 9)]


def test_a_changed_configuration_is_told() -> None:
    """§2.5.1: a new generation, and the configuration's vector."""
    driver, device = made()
    driver.start()
    before = driver.get(virtio.COMMON_GENERATION, 1)
    device.transport.config_changed()
    assert driver.get(virtio.COMMON_GENERATION, 1) == before + 1
    assert driver.at.messages.fired == [0]


def test_with_intx_the_isr_tells_both_kinds_apart() -> None:
    """§4.1.4.5: bit 0 for queues, bit 1 for the configuration; reading clears and deasserts."""
    driver, device = made(msix=False)
    driver.start()
    driver.request(0, driver.writable(1))
    device.transport.config_changed()
    assert driver.at.line.level
    assert driver.isr() == virtio.ISR_QUEUE | virtio.ISR_CONFIG
    assert not driver.at.line.level


def test_notifications_before_driver_ok_reach_nobody() -> None:
    """§3.1.1: the device must not consume buffers before DRIVER_OK; afterwards it finds them."""
    driver, _ = made()
    driver.negotiate()
    queue = driver.set_up(0)
    queue.add(driver.writable(2))
    driver.kick(0)
    assert queue.used() == []
    driver.status |= virtio.DRIVER_OK
    assert queue.used() == [(0, 2)]


def test_a_notification_through_the_bar_works_too() -> None:
    """Where no ioeventfd caught the write, the register does the same."""
    driver, _ = made()
    driver.start()
    driver.queues[1].add(driver.writable(2))
    bar, start, _ = driver.structures[virtio.CFG_NOTIFY]
    driver.bar_write(bar, start + 4, 2, 1)
    assert driver.queues[1].used() == [(0, 2)]
    driver.bar_write(bar, start + 400, 2, 100)


@pytest.mark.parametrize("msix", [True, False])
def test_a_broken_ring_needs_a_reset_and_gets_one(msix: bool) -> None:
    """§2.1.2: NEEDS_RESET with a configuration interrupt, silence until the reset, then life again."""
    driver, _ = made(msix=msix)
    driver.start()
    driver.queues[0].set_index(999)
    driver.kick(0)
    assert driver.status & virtio.NEEDS_RESET
    assert driver.at.messages.fired == ([0] if msix else [])
    assert msix or driver.isr() == virtio.ISR_CONFIG
    assert driver.at.logged[0][:2] == ("warning", "virtio-needs-reset")
    assert driver.request(1, driver.writable(1)) == []
    driver.next_free = 0x1000
    driver.start()
    assert driver.status == OK
    assert driver.request(1, driver.writable(1)) == [(0, 1)]


def test_a_failure_that_is_told_after_the_reset_is_not_the_next_lifes() -> None:
    """A server outside may notice late; the status of a device that was reset is 0 (§2.1.2)."""
    driver, _ = made()
    driver.start()
    driver.status = 0
    driver.built.transport.fail("too late")
    assert driver.status == 0
    assert driver.at.logged == []
    assert driver.start().status == OK


def test_rings_outside_memory_need_a_reset() -> None:
    """The areas are checked when they go live."""
    driver, device = made()
    driver.negotiate()
    driver.set(virtio.COMMON_QUEUE_SELECT, 2, 0)
    driver.set(virtio.COMMON_QUEUE_DESC + 4, 4, 0x7FFF)
    driver.set(virtio.COMMON_QUEUE_ENABLE, 2, 1)
    driver.status |= virtio.DRIVER_OK
    assert driver.status & virtio.NEEDS_RESET
    assert device.active == {}


def test_reset_at_any_moment_forgets_everything() -> None:
    """§2.4: registers, features, vectors and queues are as at the start."""
    driver, device = made()
    driver.start()
    driver.status = 0
    assert driver.status == 0
    assert driver.built.transport.accepted == 0
    assert driver.get(virtio.COMMON_CONFIG_VECTOR, 2) == virtio.NO_VECTOR
    driver.set(virtio.COMMON_QUEUE_SELECT, 2, 0)
    assert driver.get(virtio.COMMON_QUEUE_ENABLE, 2) == 0
    assert driver.get(virtio.COMMON_QUEUE_SIZE, 2) == 16
    assert driver.get(virtio.COMMON_QUEUE_VECTOR, 2) == virtio.NO_VECTOR
    assert driver.request(0, driver.writable(1)) == []
    assert len(device.resets) == 1


def test_the_status_is_zero_only_when_the_device_has_let_go() -> None:
    """§2.4.1: a reset with I/O under way is finished later, and until then nothing can start."""
    driver, device = made()
    device.slow = True
    driver.start()
    driver.status = 0
    assert driver.status != 0
    driver.status = 0
    driver.status = virtio.ACKNOWLEDGE
    driver.set(virtio.COMMON_QUEUE_SELECT, 2, 0)
    driver.set(virtio.COMMON_QUEUE_DESC, 4, 0x2000)
    assert len(device.resets) == 1
    device.resets[0]()
    assert driver.status == 0
    assert driver.get(virtio.COMMON_QUEUE_DESC, 4) == 0


def test_a_bus_reset_resets_the_device() -> None:
    """MSI-X, status and queues go with the function."""
    driver, device = made()
    driver.start()
    driver.bus.reset()
    assert driver.status == 0
    assert not driver.built.msix.enabled
    assert len(device.resets) == 1


def window(driver: Driver, bar: int, offset: int, length: int) -> int:
    """Point the configuration window somewhere; the place of its data."""
    at = next(
        at for at in driver.capabilities[pci.CAP_VENDOR] if driver.config_read(at + 3, 1) == virtio.CFG_PCI
    )
    driver.config_write(at + 4, 1, bar)
    driver.config_write(at + 8, 4, offset)
    driver.config_write(at + 12, 4, length)
    return at + 16


def test_the_configuration_window_reaches_the_registers() -> None:
    """§4.1.4.9: reads and writes through configuration space do what the BAR does."""
    driver, _ = made()
    data = window(driver, 0, virtio_pci.COMMON + virtio.COMMON_STATUS, 1)
    driver.config_write(data, 1, virtio.ACKNOWLEDGE)
    assert driver.status == virtio.ACKNOWLEDGE
    assert driver.config_read(data, 1) == virtio.ACKNOWLEDGE
    data = window(driver, 0, virtio_pci.DEVICE + 4, 4)
    assert driver.config_read(data, 4) == 0x07060504


@pytest.mark.parametrize(
    ("bar", "offset", "length"),
    [
        (1, 0, 4), (2, 0, 4), (5, 0, 1), (0xFF, 0, 1), (0, 0, 0), (0, 0, 3), (0, 0, 8), (0, 0, 0xFFFFFFFF),
        (0, 0x2001, 2), (0, 0x2002, 4), (0, virtio_pci.REGISTERS_SIZE, 1), (0, 0xFFFFFFFC, 4),
        (0, virtio_pci.REGISTERS_SIZE - 2, 4),
    ],
)  # fmt: skip
def test_row_12_the_window_is_bounded(bar: int, offset: int, length: int) -> None:
    """Device-bugs 12: its own BAR, length 1, 2 or 4, aligned, inside; else zero and nothing."""
    driver, device = made()
    seen: list[tuple[int, int]] = []
    built = driver.built
    built.read = lambda offset, size: seen.append((offset, size)) or 0xFF
    built.write = lambda offset, size, value: seen.append((offset, size))
    data = window(driver, bar, offset, length)
    assert driver.config_read(data, 4) == 0
    driver.config_write(data, 4, 0x5A5A5A5A)
    assert seen == []
    assert device.written == []


register_write = st.tuples(
    st.integers(0, 2),
    st.one_of(st.sampled_from(sorted(virtio_pci._WIDTHS)), st.integers(0, 0x4000)),
    st.sampled_from([1, 2, 4, 8]),
    st.one_of(st.sampled_from([0, 1, 2, 3, 8, 11, 15]), st.integers(0, 2**64 - 1)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(register_write, max_size=60), st.booleans())
def test_whatever_a_driver_writes_the_device_stands(
    writes: list[tuple[int, int, int, int]], live: bool
) -> None:
    """Any writes to BARs and configuration space: no exception, and the status stays lawful."""
    driver, _ = made()
    if live:
        driver.start()
        driver.memory.write(driver.queues[0].driver, pack("<HH8H", 0, 5, *range(8)))
    for where, offset, size, wide in writes:
        value = wide & (1 << 8 * size) - 1
        if where == 2 and size < 8:
            driver.config_write(offset & 0xFF, size, value)
            driver.config_read(offset & 0xFF, size)
        else:
            driver.bar_write(0 if where == 0 else 2, offset, size, value)
            driver.bar_read(0 if where == 0 else 2, offset, size)
        status = driver.status
        for bit, needs in PREREQUISITES:
            assert not status & bit or status & needs == needs
