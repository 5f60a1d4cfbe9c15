"""A tap that is deleted under a running machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from runner.backends.tap import Tap
from tests.unit.served_machine import Machine

LOST = [("error", "network-lost", {"device": "net.lan", "reason": os.strerror(errno.EBADF)})]


class Deleted:
    """Two queues whose descriptors are as those of a deleted tap: polled with an error, and read in vain.

    The writing end of a pipe that nobody reads does the same.
    """

    def __init__(self) -> None:
        self.machine = Machine(layout=((0, 1 << 20),))
        self.fds = []
        for _ in range(2):
            reader, writer = os.pipe()
            os.close(reader)
            self.fds.append(writer)
        self.card = Tap("net.lan", self.fds, self.machine)  # type: ignore[arg-type]
        self.asked = 0

    def ask(self, number: int) -> None:
        self.asked += 1
        assert self.card.queues[number].receive(memoryview(bytearray(2000))) == 0

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def deleted() -> Iterator[Deleted]:
    made = Deleted()
    yield made
    made.close()


def test_a_deleted_tap_is_a_lost_network_and_told_once(deleted: Deleted) -> None:
    """Each queue is asked once more, and its descriptor, which would always be ready, is left alone."""
    for number in range(2):
        deleted.card.queues[number].on_readable(lambda number=number: deleted.ask(number))  # type: ignore[misc]
    deleted.machine.turn(0.05)
    assert deleted.asked == 2
    assert deleted.machine.logged == LOST
    deleted.card.queues[0].on_readable(lambda: deleted.ask(0))
    deleted.machine.turn(0.02)
    assert deleted.asked == 2
    assert deleted.card.queues[0].send([memoryview(bytes(60))])


@pytest.mark.parametrize("what", ["set_offloads", "set_pairs"])
def test_what_a_deleted_tap_refuses_does_not_end_the_machine(
    deleted: Deleted, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that starts again after the loss: ioctl(2) fails as a read does."""

    def refused(*_: object) -> None:
        raise OSError(errno.EBADF, "")

    monkeypatch.setattr("runner.backends.tap.tap", SimpleNamespace(set_offloads=refused, use_queue=refused))
    getattr(deleted.card, what)(1)
    assert deleted.machine.logged == LOST
