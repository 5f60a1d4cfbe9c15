"""virtio-pmem: where the memory is, and flushes that mean it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest

from runner.devices import virtio_pmem
from runner.errors import DefinitionError
from runner.wire import virtio
from tests.unit.virtio_driver import Attachment, Driver, placed

START, SIZE = 1 << 33, 64 << 20


class File:
    """PmemBackend whose flushes end when a test says so."""

    def __init__(self) -> None:
        self.flushes: list[Callable[[int], None]] = []

    def flush(self, done: Callable[[int], None]) -> None:
        self.flushes.append(done)


def made() -> tuple[Driver, File]:
    file = File()
    options: dict[str, Any] = {"path": {"text": "x", "resolved": "/x"}, "size": SIZE}
    at = Attachment({"pmem.data": file})
    claim = virtio_pmem.claim("pmem.data", options)
    claim = claim._replace(regions=(claim.regions[0]._replace(start=START),))
    node = placed("virtio_pmem", "data", "pmem", options, claim, intx=False)
    return Driver(virtio_pmem.build(node, at), at).start(), file


def flush(driver: Driver, kind: int = 0) -> tuple[int, int, bool]:
    answer = driver.alloc(4, b"\xff" * 4), 4, True
    driver.request(0, driver.readable(pack("<I", kind)), answer)
    return answer


def result(driver: Driver, answer: tuple[int, int, bool]) -> int:
    return int.from_bytes(driver.memory.read(answer[0], 4), "little")


def test_the_configuration_says_where_the_memory_is() -> None:
    """Start and size of the region that the allocator gave."""
    driver, _ = made()
    assert driver.device_config(0, 8) == START
    assert driver.device_config(8, 8) == SIZE


def test_an_acknowledged_flush_has_happened() -> None:
    """The answer comes with the backend's completion and not before."""
    driver, file = made()
    answer = flush(driver)
    assert result(driver, answer) == 0xFFFFFFFF
    file.flushes[0](0)
    assert result(driver, answer) == 0
    assert driver.at.messages.fired == [1]


def test_after_a_failed_flush_every_flush_fails() -> None:
    """Also those that were under way, and without asking the backend again."""
    driver, file = made()
    one, two = flush(driver), flush(driver)
    file.flushes[0](errno.EIO)
    file.flushes[1](0)
    three = flush(driver)
    assert [result(driver, answer) for answer in (one, two, three)] == [1, 1, 1]
    assert len(file.flushes) == 2


def test_an_unknown_request_fails() -> None:
    """There is only the flush."""
    driver, file = made()
    assert result(driver, flush(driver, 7)) == 1
    assert file.flushes == []


@pytest.mark.parametrize("shape", [(b"\0\0", 4), (b"\0\0\0\0", 3), (b"\0\0\0\0", 0)])
def test_a_request_without_room_needs_a_reset(shape: tuple[bytes, int]) -> None:
    """Half a type, or no place for the answer."""
    driver, _ = made()
    parts = [driver.readable(shape[0])] + ([driver.writable(shape[1])] if shape[1] else [])
    driver.request(0, *parts)
    assert driver.status & virtio.NEEDS_RESET


def test_reset_waits_for_what_is_under_way() -> None:
    """The answer is written to guest memory, so the status is zero only after it."""
    driver, file = made()
    flush(driver)
    driver.status = 0
    assert driver.status != 0
    file.flushes[0](0)
    assert driver.status == 0


def test_a_size_that_linux_cannot_map_is_refused() -> None:
    """No multiple of 2 MiB: the error says which would do."""
    with pytest.raises(DefinitionError) as caught:
        virtio_pmem.claim("pmem.data", {"path": "x", "size": (3 << 20) + 5})
    assert caught.value.hint == 'size = "4M"'
