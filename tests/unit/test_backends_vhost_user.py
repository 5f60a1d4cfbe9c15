"""A device whose rings another process serves: what a reset waits for, and for how long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runner.backends.vhost_user import VhostUserQueues
from runner.devices.ports import OffloadedQueue
from runner.host import vhost_user
from tests.unit.served_machine import Attachment, Bell, Machine
from tests.unit.test_host_vhost_user import BackEnd, Reply, broken, proper, reply


class Served:
    """Two rings of a device, in the hands of a back-end that answers as it likes."""

    def __init__(self, answer: Reply) -> None:
        self.machine = Machine()
        ours, self.theirs = socket.socketpair()
        self.other = BackEnd(self.theirs, answer)
        machine: Any = self.machine
        self.backend = VhostUserQueues("disks.a", "daemon", ours.detach(), machine)
        attachment: Any = Attachment()
        self.backend.join(attachment)
        self.stopped = threading.Event()

    def start(self) -> None:
        queues: Any = [OffloadedQueue(n, 64, 0x1000, 0x2000, 0x3000, n, Bell(), lambda: None) for n in (0, 1)]  # type: ignore[arg-type]
        self.backend.start(1 << 32, queues)

    def heard(self, request: int) -> list[bytes]:
        return [payload for asked, _, payload, _ in self.other.heard if asked == request]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], Served]]:
    monkeypatch.setattr(vhost_user, "SECONDS", 0.5)
    made: list[Served] = []

    def make(answer: Reply = proper) -> Served:
        made.append(Served(answer))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.theirs.close()
        each.backend.close()


def test_a_reset_ends_when_each_ring_has_been_given_back(served: Any) -> None:
    """The other side drains a ring before it answers GET_VRING_BASE."""
    drained = threading.Event()

    def slowly(request: int, payload: bytes) -> bytes:
        drained.wait(5)
        return proper(request, payload)

    device = served(broken(vhost_user.GET_VRING_BASE, slowly))
    thread = threading.Thread(target=device.backend.stop, args=(device.stopped.set,))
    thread.start()
    assert not device.stopped.wait(0.2)
    drained.set()
    thread.join(5)
    assert device.stopped.is_set()
    assert [int.from_bytes(payload[:4], "little") for payload in device.heard(vhost_user.GET_VRING_BASE)] == [
        0,
        1,
    ]
    assert device.machine.failures == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda r, p: b"", "has not answered"),
        (lambda r, p: reply(r, b"1234"), "broke the vhost-user protocol"),
    ],
)
def test_rings_that_are_not_given_back_end_the_run_and_no_reset(
    served: Any, answer: Reply, words: str
) -> None:
    """It lives, and may write into guest memory at any time: the driver must not be told that it is over."""
    device = served(broken(vhost_user.GET_VRING_BASE, answer))
    device.backend.stop(device.stopped.set)
    assert not device.stopped.is_set()
    (failure,) = device.machine.failures
    assert words in failure


def test_rings_of_a_dead_process_are_given_back(served: Any) -> None:
    device = served(broken(vhost_user.GET_VRING_BASE, lambda r, p: None))
    device.backend.stop(device.stopped.set)
    assert device.stopped.is_set()
    assert device.machine.failures == []
