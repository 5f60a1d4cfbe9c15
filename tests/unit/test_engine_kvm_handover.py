"""What the supervisor hands over arrives whole, however much it is."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from runner.engine.kvm import handover
from runner.engine.protocol import Resources


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("count", [0, 1, 250, 251, 300])
def test_each_name_gets_the_descriptor_that_was_its_own(pair, count):
    """A card with 16 queues has 32 descriptors, and one sendmsg carries 253."""
    ours, theirs = pair
    files = [os.memfd_create(f"file{number}") for number in range(count)]
    for number, fd in enumerate(files):
        os.pwrite(fd, b"%d" % number, 0)
    given = Resources({f"net{number}": fd for number, fd in enumerate(files)}, {"large": "x" * 1_000_000})
    sender = threading.Thread(target=handover.send_resources, args=(ours.fileno(), given))
    sender.start()
    received = handover.receive_resources(theirs.fileno())
    sender.join()
    assert received is not None
    assert received.values == given.values
    assert list(received.fds) == list(given.fds)
    for number, fd in enumerate(received.fds.values()):
        assert fd not in files
        assert not os.get_inheritable(fd)
        assert os.pread(fd, 10, 0) == b"%d" % number
    for fd in (*files, *received.fds.values()):
        os.close(fd)


@pytest.mark.parametrize("said", [b"", b"\0\0\0", b"\5\0\0\0\0\0\0\0abc", b"\1\0\0\0\1\0\0\0N"])
def test_a_supervisor_that_ends_half_way_is_none(pair, said):
    ours, theirs = pair
    ours.sendall(said)
    ours.close()
    assert handover.receive_resources(theirs.fileno()) is None
