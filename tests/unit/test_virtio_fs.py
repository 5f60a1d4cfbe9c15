"""virtio-fs: the tag, and the queues that virtiofsd serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from runner.devices import virtio_fs
from runner.devices.ports import OffloadedQueue
from runner.wire import virtio
from runner.wire import virtio_fs as wire
from tests.unit.virtio_driver import Attachment, Driver, placed


class Server:
    """QueueOffload."""

    features = virtio.F_VERSION_1 | virtio.F_INDIRECT_DESC | 1 << 30
    config = b""
    on_broken: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.queues: list[int] = []

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        self.queues = [queue.number for queue in queues]

    def stop(self, done: Callable[[], None]) -> None:
        self.queues = []
        done()

    def kick(self, number: int) -> None:
        assert number in self.queues


def made(**options: Any) -> tuple[Driver, Server, Any]:
    server = Server()
    options = {"path": {"text": "src", "resolved": "/src"}, "readonly": False, **options}
    at = Attachment({"fs.src": server})
    node = placed("virtio_fs", "src", "fs", options, virtio_fs.claim("fs.src", options), intx=False)
    return Driver(virtio_fs.build(node, at), at), server, node


def test_the_server_has_every_queue_while_the_driver_is_there() -> None:
    """Handed over at DRIVER_OK, taken back at the reset."""
    driver, server, _ = made()
    driver.start()
    assert server.queues == [0, 1]
    driver.status = 0
    assert server.queues == []
    assert driver.status == 0


def test_the_tag_names_the_folder() -> None:
    """The option, or the table's name; 36 bytes padded with zeros, then the request queues."""
    for options, tag in (({}, b"src"), ({"tag": "work"}, b"work")):
        driver, _, _ = made(**options)
        config = bytes(driver.device_config(at, 1) for at in range(40))
        assert config == tag.ljust(36, b"\0") + b"\1\0\0\0"


def test_only_ring_features_of_the_server_are_offered() -> None:
    """The protocol bits of vhost-user are nothing for the guest."""
    driver, _, _ = made()
    assert driver.offered == virtio.F_VERSION_1 | virtio.F_INDIRECT_DESC


def test_a_tag_that_is_too_long_is_refused() -> None:
    """Cut, it would name another folder."""
    with pytest.raises(ValueError, match="longer than 36"):
        wire.config("x" * 37, 1)


def test_in_words_of_qemu() -> None:
    """vhost-user-fs on the engine's chardev; commas in a tag are doubled."""
    _, _, node = made(tag="a,b")
    assert virtio_fs.qemu(node)[1].endswith("chardev=fs.src,tag=a,,b,queue-size=1024")
