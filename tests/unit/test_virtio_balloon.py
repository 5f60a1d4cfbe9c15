"""virtio-balloon: which memory is given back, and that nothing outside RAM ever is."""

from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.devices import virtio_balloon
from runner.devices.ports import GuestMemoryFault
from runner.wire import virtio
from runner.wire import virtio_balloon as wire
from tests.unit.virtio_driver import RAM, Attachment, Driver, placed

PAGE = 4096


class Advisor:
    """MemoryAdvisor that remembers."""

    def __init__(self) -> None:
        self.discarded: list[tuple[int, int]] = []
        self.sizes: list[int] = []

    def given_back(self, size: int) -> None:
        self.sizes.append(size)

    def discard(self, address: int, length: int) -> None:
        if address + length > RAM:
            raise GuestMemoryFault(address, length)
        self.discarded.append((address, length))


def made(**options: Any) -> tuple[Driver, Advisor]:
    advisor = Advisor()
    at = Attachment({"balloon": advisor})
    claim = virtio_balloon.claim("balloon", options)
    node = placed("virtio_balloon", "balloon", "balloon", options, claim, intx=False)
    return Driver(virtio_balloon.build(node, at), at), advisor


def pages(*numbers: int) -> bytes:
    return b"".join(pack("<I", number) for number in numbers)


def test_inflated_pages_are_given_back_in_runs() -> None:
    """Neighbours, upwards or downwards, are one range; nothing else is touched."""
    driver, advisor = made()
    driver.start()
    back = driver.request(wire.INFLATE, driver.readable(pages(5, 6, 7, 20, 19, 9)))
    assert back == [(0, 0)]
    assert advisor.discarded == [(5 * PAGE, 3 * PAGE), (19 * PAGE, 2 * PAGE), (9 * PAGE, PAGE)]


@given(st.lists(st.integers(0, 30), max_size=40))
def test_runs_cover_exactly_what_was_named(numbers: list[int]) -> None:
    """For any page numbers: the ranges together are those pages."""
    named = set()
    for start, length in virtio_balloon._ranges(pages(*numbers)):
        named |= set(range(start // PAGE, (start + length) // PAGE))
    assert named == set(numbers)


def test_deflating_takes_nothing() -> None:
    """A page taken back is there when it is touched."""
    driver, advisor = made()
    driver.start()
    assert driver.request(wire.DEFLATE, driver.readable(pages(5))) == [(0, 0)]
    assert advisor.discarded == []


@pytest.mark.parametrize("queue", [2, 4])
def test_reported_pages_are_given_back(queue: int) -> None:
    """The writable buffers of a report are the free memory, on either number of the queue."""
    driver, advisor = made()
    driver.start()
    driver.request(queue, (0x40000, 0x20000, True), (0x80000, 0x1000, True))
    assert advisor.discarded == [(0x40000, 0x20000), (0x80000, 0x1000)]


def test_without_negotiation_nothing_is_reported() -> None:
    """A driver that did not take the feature gives nothing back by that queue."""
    driver, advisor = made()
    driver.start(virtio.F_VERSION_1)
    driver.request(2, (0x40000, 0x20000, True))
    assert advisor.discarded == []


def test_options_decide_what_is_offered() -> None:
    """Reporting by default, deflating on lack of memory only when asked for."""
    assert made()[0].offered & wire.F_PAGE_REPORTING
    assert not made()[0].offered & wire.F_DEFLATE_ON_OOM
    other = made(free_page_reporting=False, deflate_on_oom=True)[0].offered
    assert not other & wire.F_PAGE_REPORTING
    assert other & wire.F_DEFLATE_ON_OOM


def test_row_9_pages_outside_memory_need_a_reset() -> None:
    """Device-bugs 9: a page number can only mean RAM."""
    driver, advisor = made()
    driver.start()
    driver.request(wire.INFLATE, driver.readable(pages(0xFEE00)))
    assert driver.status & virtio.NEEDS_RESET
    assert advisor.discarded == []


def test_the_target_is_told_and_the_answer_heard() -> None:
    """num_pages with an interrupt; actual is the driver's to write, and goes with a reset."""
    driver, advisor = made()
    driver.start()
    balloon = driver.built.transport.device
    balloon.inflate_to(64 << 20)
    assert driver.device_config(0, 4) == 16384
    assert driver.at.messages.fired == [0]
    driver.set_device_config(4, 4, 123)
    driver.set_device_config(0, 4, 9)
    assert balloon.actual == 123
    assert driver.device_config(0, 4) == 16384
    driver.status = 0
    assert balloon.actual == 0
    assert advisor.sizes == [123 * PAGE, 0]


def test_half_a_page_number_is_ignored() -> None:
    """Only whole numbers count."""
    driver, advisor = made()
    driver.start()
    driver.request(wire.INFLATE, driver.readable(pages(3) + b"\1\0"))
    assert advisor.discarded == [(3 * PAGE, PAGE)]


def test_in_words_of_qemu() -> None:
    """Both options are QEMU's properties."""
    node = placed("virtio_balloon", "balloon", "balloon", {}, virtio_balloon.claim("balloon", {}), intx=False)
    assert virtio_balloon.qemu(node)[1].endswith("free-page-reporting=on,deflate-on-oom=off")
