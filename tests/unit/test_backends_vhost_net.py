"""vhost-net, whose ioctls are written down here instead of being made."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from runner.backends import vhost_net
from runner.devices.ports import OffloadedQueue
from runner.wire import virtio
from tests.unit.served_machine import Attachment, Bell, Machine


class Kernel:
    """VhostDevice of one handle; the ring ``refuses`` of handle 11 is refused by the call of that name."""

    features = virtio.F_VERSION_1
    refuses: tuple[str, int] = ("", 0)

    def __init__(self, fd: int, ram: Any) -> None:
        self.fd = fd
        self.did: list[tuple[Any, ...]] = []

    def own(self) -> None:
        """Nothing to own."""

    def set_features(self, features: int) -> None:
        """All are known."""

    def _do(self, what: str, index: int, *more: int) -> None:
        if self.fd == 11 and self.refuses == (what, index) and more != (-1,):
            raise OSError(errno.EFAULT, "no")
        self.did.append((what, index, *more))

    def set_queue(self, index: int, queue: Any, kick: int, call: int) -> None:
        self._do("queue", index)

    def set_backend(self, index: int, fd: int) -> None:
        self._do("backend", index, fd)

    def drop_queue(self, index: int) -> None:
        self._do("drop", index)


@pytest.mark.parametrize("refuses", [("queue", 1), ("backend", 0), ("backend", 1)])
def test_rings_before_the_one_that_is_refused_are_taken_back(
    monkeypatch: pytest.MonkeyPatch, refuses: tuple[str, int]
) -> None:
    """Each ring that the kernel was given is dropped, and moves nothing any more."""
    monkeypatch.setattr(vhost_net, "VhostDevice", Kernel)
    monkeypatch.setattr(Kernel, "refuses", refuses)
    machine: Any = Machine()
    backend: Any = vhost_net.VhostNet("net.lan", [10, 11], [20, 21], machine)
    backend.join(Attachment())
    queues: Any = [OffloadedQueue(n, 64, 0x1000, 0x2000, 0x3000, n, Bell(), lambda: None) for n in range(4)]  # type: ignore[arg-type]
    with pytest.raises(OSError, match="no"):
        backend.start(virtio.F_VERSION_1, queues)
    backend.stop(lambda: None)
    for kernel in backend._devices:
        given = {index for what, index, *_ in kernel.did if what == "queue"}
        assert {index for what, index, *_ in kernel.did if what == "drop"} == given
        last = {index: fd for what, index, *fd in kernel.did if what == "backend"}
        assert last == {index: [-1] for index in given}
