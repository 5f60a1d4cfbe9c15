"""What the supervisor gives to the waiting VM process: one message with the descriptors attached.

The descriptors travel by SCM_RIGHTS (unix(7)), so the process holds these and no others.
"""

from __future__ import annotations

import marshal
import struct
from _socket import MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET, socket

from runner.engine.protocol import BootFiles, Resources
from runner.graph.model import Graph
from runner.graph.plain import plain, revive
from runner.typed import Any, NamedTuple

_LENGTH = struct.Struct("<I")
MOST_FDS = 250  # SCM_MAX_FD is 253


class Job(NamedTuple):
    """Everything a VM process needs to know."""

    graph: Graph
    files: BootFiles
    resources: Resources
    kvm_fd: int


def send(control: int, job: Job) -> None:
    """Write the job.  Raises OSError when the process has gone."""
    names = list(job.resources.fds)
    if len(names) >= MOST_FDS:
        raise ValueError(f"{len(names)} descriptors are more than one message carries")
    words = (plain(job.graph), plain(job.files), names, dict(job.resources.values))
    data = marshal.dumps(words)
    fds = struct.pack(f"{len(names) + 1}i", job.kvm_fd, *(job.resources.fds[name] for name in names))
    sock = socket(fileno=control)
    try:
        sock.sendmsg([_LENGTH.pack(len(data))], [(SOL_SOCKET, SCM_RIGHTS, fds)])
        sock.sendall(data)
    finally:
        sock.detach()


def receive(control: int) -> Job | None:
    """Wait for the job; None when the supervisor has gone without one."""
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
    kvm_fd, *fds = _descriptors(ancillary)
    graph, files, names, values = marshal.loads(data)  # noqa: S302  # our own parent wrote it
    return Job(revive(graph), revive(files), Resources(dict(zip(names, fds, strict=True)), values), kvm_fd)


def _descriptors(ancillary: list[Any]) -> list[int]:
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            return list(struct.unpack(f"{len(data) // 4}i", data))
    raise OSError("the message has no descriptors")
