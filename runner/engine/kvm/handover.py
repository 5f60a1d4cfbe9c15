"""What the supervisor gives to the waiting VM process: two messages with descriptors attached.

The first has the machine, so that the process makes memory and CPUs and loads the kernel while
the supervisor opens what the devices need; the second has that.  The descriptors travel by
SCM_RIGHTS (unix(7)), so the process holds these and no others.  A message is its length and the
count of its descriptors, then its words; descriptors that one ``sendmsg`` does not carry follow.
"""

from __future__ import annotations

import marshal
import struct
from _socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket

from runner.engine.protocol import Resources
from runner.graph.model import BootFiles, Graph
from runner.graph.plain import plain, revive
from runner.typed import Any, NamedTuple

_HEAD = struct.Struct("<II")
MOST_FDS = 250  # of one sendmsg: SCM_MAX_FD is 253


class Job(NamedTuple):
    """What a VM process can begin with: the machine, and what goes into its memory."""

    graph: Graph
    files: BootFiles
    kvm_fd: int


def send_job(control: int, job: Job) -> None:
    """The first message.  Raises OSError when the process has gone."""
    _send(control, (plain(job.graph), plain(job.files)), [job.kvm_fd])


def send_resources(control: int, resources: Resources) -> None:
    """The second message: what its devices need of the host.  Raises OSError when the process has gone."""
    names = list(resources.fds)
    _send(control, (names, dict(resources.values)), [resources.fds[name] for name in names])


def receive_job(control: int) -> Job | None:
    """Wait for it; None when the supervisor has gone without one."""
    received = _receive(control)
    if received is None:
        return None
    (graph, files), (kvm_fd,) = received
    return Job(revive(graph), revive(files), kvm_fd)


def receive_resources(control: int) -> Resources | None:
    """Wait for them; None when the supervisor does not want the machine any more."""
    received = _receive(control)
    if received is None:
        return None
    (names, values), fds = received
    return Resources(dict(zip(names, fds, strict=True)), values)


def _send(control: int, words: Any, fds: list[int]) -> None:
    data = marshal.dumps(words)
    sock = socket(fileno=control)
    try:
        sock.sendmsg([_HEAD.pack(len(data), len(fds))], _rights(fds[:MOST_FDS]))
        sock.sendall(data)
        for start in range(MOST_FDS, len(fds), MOST_FDS):
            sock.sendmsg([b"\0"], _rights(fds[start : start + MOST_FDS]))
    finally:
        sock.detach()


def _rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    return [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []


def _receive(control: int) -> tuple[Any, list[int]] | None:
    sock = socket(fileno=control)
    try:
        head, fds = _receive_fds(sock, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, count = _HEAD.unpack(head)
        data = bytearray()
        while len(data) < length:
            part = sock.recv(length - len(data))
            if not part:
                return None
            data += part
        while len(fds) < count:
            more, others = _receive_fds(sock, 1)
            if not more:
                return None
            fds += others
    finally:
        sock.detach()
    return marshal.loads(data), fds  # noqa: S302  # our own parent wrote it


def _receive_fds(sock: socket, size: int) -> tuple[bytes, list[int]]:
    data, ancillary, _, _ = sock.recvmsg(size, MOST_FDS * 4 + 64, MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, words in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fds += struct.unpack(f"{len(words) // 4}i", words)
    return data, fds
