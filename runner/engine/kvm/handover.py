"""What the supervisor gives to the waiting VM process: two messages with descriptors attached.

The first has the machine, so that the process makes memory and CPUs and loads the kernel while
the supervisor opens what the devices need; the second has that.  The descriptors travel by
SCM_RIGHTS (unix(7)), so the process holds these and no others.
"""

from __future__ import annotations

import marshal
import struct
from _socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket

from runner.engine.protocol import Resources
from runner.graph.model import BootFiles, Graph
from runner.graph.plain import plain, revive
from runner.typed import Any, NamedTuple

_LENGTH = struct.Struct("<I")
MOST_FDS = 250  # SCM_MAX_FD is 253


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
    if len(names) > MOST_FDS:
        raise ValueError(f"{len(names)} descriptors are more than one message carries")
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
    carried = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sock = socket(fileno=control)
    try:
        sock.sendmsg([_LENGTH.pack(len(data))], carried)
        sock.sendall(data)
    finally:
        sock.detach()


def _receive(control: int) -> tuple[Any, list[int]] | None:
    sock = socket(fileno=control)
    try:
        head, ancillary, _, _ = sock.recvmsg(_LENGTH.size, MOST_FDS * 4 + 64, MSG_CMSG_CLOEXEC)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        data = bytearray()
        while len(data) < length:
            part = sock.recv(length - len(data))
            if not part:
                return None
            data += part
    finally:
        sock.detach()
    return marshal.loads(data), _descriptors(ancillary)  # noqa: S302  # our own parent wrote it


def _descriptors(ancillary: list[Any]) -> list[int]:
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            return list(struct.unpack(f"{len(data) // 4}i", data))
    return []
