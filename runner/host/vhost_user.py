"""vhost-user: another process serves virtqueues (QEMU, docs/interop/vhost-user.rst).

This is the front-end: it has the guest's memory and tells the back-end, over a connected
Unix socket, where memory and rings are and which descriptors kick and call.  The other
process is not trusted to be sane: each reply has to answer the request that was sent, with
the length that it must have, within a deadline.  It is trusted with the guest's memory,
which is what it is there for, and with nothing else of this process: ring addresses are told
as guest-physical ones.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket
from select import POLLIN, POLLRDHUP, poll

from runner.devices.ports import OffloadedQueue
from runner.host.memory import Ram
from runner.typed import Final, Sequence

HEADER: Final = struct.Struct("<III")  # request, flags, bytes of payload
VERSION: Final = 1
REPLY: Final = 1 << 2
NEED_REPLY: Final = 1 << 3

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
SET_MEM_TABLE: Final = 5
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
GET_CONFIG: Final = 24
SET_CONFIG: Final = 25

F_PROTOCOL_FEATURES: Final = 1 << 30  # of the feature bits, reserved for vhost-user
PROTOCOL_MQ: Final = 1 << 0
PROTOCOL_REPLY_ACK: Final = 1 << 3
PROTOCOL_CONFIG: Final = 1 << 9

MOST_REGIONS: Final = 8  # without CONFIGURE_MEM_SLOTS
SECONDS: Final = 10.0  # for a reply; a back-end drains a ring before it answers GET_VRING_BASE
U64: Final = struct.Struct("<Q")
STATE: Final = struct.Struct("<II")  # ring, number
ADDRESSES: Final = struct.Struct("<IIQQQQ")  # ring, flags, descriptors, used, available, log
REGION: Final = struct.Struct("<QQQQ")  # guest-physical, bytes, user address, offset in the file
CONFIG: Final = struct.Struct("<III")  # offset, bytes, flags


class VhostUserError(OSError):
    """The other process answers nonsense, late, or no more; ``str`` is a sentence."""


class VhostUser:
    """One connection, owned by this object.  Every call raises :class:`VhostUserError` or OSError.

    ``who`` names the other side in errors: "qemu-storage-daemon of disks.root".
    """

    def __init__(self, fd: int, who: str) -> None:
        self.fd, self.who = fd, who
        self._socket = socket(AF_UNIX, SOCK_STREAM, 0, fd)
        self._socket.settimeout(SECONDS)
        self.features = self.protocol = 0
        self._broken = False
        self.hung_up = False  # the other side has: it serves nothing any more
        self._poll = poll()
        self._poll.register(fd, POLLIN | POLLRDHUP)

    # ---- life

    def greet(self) -> None:
        """Ask for the features: whether it answers at all, changing nothing."""
        self.features = self._ask_number(GET_FEATURES)

    def begin(self, wanted: int) -> None:
        """Agree on the protocol's own features (of ``wanted``), and own the other side."""
        self.greet()
        if self.features & F_PROTOCOL_FEATURES:
            self.protocol = self._ask_number(GET_PROTOCOL_FEATURES) & wanted
            self._tell(SET_PROTOCOL_FEATURES, U64.pack(self.protocol))
        self._tell(SET_OWNER)

    def detach(self) -> int:
        """Give the connection away; this object is done with it."""
        return self._socket.detach()

    def close(self) -> None:
        """Hang up: the other side stops all rings by then."""
        self._socket.close()

    def has_gone(self) -> bool:
        """Whether the other side has hung up, or says what nobody asked for."""
        return self._broken or bool(self._poll.poll(0))

    # ---- set-up

    def queue_count(self) -> int:
        """How many rings it serves; 1 when it cannot say."""
        return self._ask_number(GET_QUEUE_NUM) if self.protocol & PROTOCOL_MQ else 1

    def config(self, size: int) -> bytes:
        """The first ``size`` bytes of the device's configuration space; b"" when it has none."""
        if not self.protocol & PROTOCOL_CONFIG:
            return b""
        asked = CONFIG.pack(0, size, 0)
        answer = self._ask(GET_CONFIG, asked + bytes(size), CONFIG.size + size)
        if CONFIG.unpack_from(answer)[:2] != (0, size):
            raise self._nonsense("a configuration space of another size than asked for")
        return answer[CONFIG.size :]

    def set_config(self, offset: int, data: bytes) -> None:
        """Write into the device's configuration space, as the driver would; nothing where it has none."""
        if self.protocol & PROTOCOL_CONFIG:
            self._tell(SET_CONFIG, CONFIG.pack(offset, len(data), 0) + data)

    def set_memory(self, ram: Ram) -> None:
        """All of the guest's RAM, which has to be shared memory."""
        regions = [each for each in ram.regions if not each.private]
        if ram.fd < 0 or len(regions) > MOST_REGIONS:
            raise VhostUserError(f"{self.who} cannot map this guest's memory")
        rows = b"".join(REGION.pack(each.start, each.size, each.start, each.offset) for each in regions)
        files = [each.fd if each.fd >= 0 else ram.fd for each in regions]
        self._tell(SET_MEM_TABLE, STATE.pack(len(regions), 0) + rows, files)

    def set_features(self, features: int) -> None:
        """What was negotiated with the driver."""
        own = F_PROTOCOL_FEATURES if self.features & F_PROTOCOL_FEATURES else 0
        self._tell(SET_FEATURES, U64.pack(features & self.features | own))

    # ---- rings

    def start_queue(self, queue: OffloadedQueue, kick: int, call: int) -> None:
        """Serve this ring from now on."""
        number = queue.number
        addresses = (queue.descriptors, queue.device, queue.driver)
        self._tell(SET_VRING_NUM, STATE.pack(number, queue.size))
        self._tell(SET_VRING_BASE, STATE.pack(number, 0))
        self._tell(SET_VRING_ADDR, ADDRESSES.pack(number, 0, *addresses, 0))
        self._tell(SET_VRING_CALL, U64.pack(number), [call])
        self._tell(SET_VRING_KICK, U64.pack(number), [kick])
        if self.features & F_PROTOCOL_FEATURES:
            self._tell(SET_VRING_ENABLE, STATE.pack(number, 1))

    def stop_queue(self, number: int) -> None:
        """Returns when the ring is no longer served."""
        answer = self._ask(GET_VRING_BASE, STATE.pack(number, 0), STATE.size)
        if STATE.unpack(answer)[0] != number:
            raise self._nonsense("the state of another ring than asked for")

    def settle(self) -> None:
        """Returns when everything told so far has been done."""
        if not self.protocol & PROTOCOL_REPLY_ACK:
            self._ask_number(GET_FEATURES)

    # ---- messages

    def _ask_number(self, request: int) -> int:
        return int(U64.unpack(self._ask(request, b"", U64.size))[0])

    def _ask(self, request: int, payload: bytes, size: int) -> bytes:
        """The reply's payload, which has to be ``size`` bytes long."""
        self._send(request, VERSION, payload, ())
        return self._reply(request, size)

    def _tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A message without a reply of its own; with REPLY_ACK it is acknowledged all the same."""
        acknowledged = self.protocol & PROTOCOL_REPLY_ACK and request != SET_PROTOCOL_FEATURES
        self._send(request, VERSION | (NEED_REPLY if acknowledged else 0), payload, fds)
        if acknowledged and (status := U64.unpack(self._reply(request, U64.size))[0]):
            raise VhostUserError(f"{self.who} refuses request {request} of vhost-user (it says {status:#x})")

    def _send(self, request: int, flags: int, payload: bytes, fds: Sequence[int]) -> None:
        if self._broken:
            raise self._lost(None)
        data = HEADER.pack(request, flags, len(payload)) + payload
        rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        try:
            sent = self._socket.sendmsg([data], rights, MSG_NOSIGNAL)
            if sent < len(data):
                self._socket.sendall(data[sent:], MSG_NOSIGNAL)
        except OSError as error:
            raise self._lost(error) from None

    def _reply(self, request: int, size: int) -> bytes:
        answered, flags, length = HEADER.unpack(self._receive(HEADER.size))
        if answered != request or flags & (3 | REPLY) != VERSION | REPLY:
            raise self._nonsense(f"message {answered} with flags {flags:#x} as answer to request {request}")
        if length != size:
            raise self._nonsense(f"{length} bytes, and not {size}, as answer to request {request}")
        return self._receive(size)

    def _receive(self, size: int) -> bytes:
        """Exactly so many bytes.  Descriptors that nobody asked for are dropped by the kernel."""
        data = b""
        while len(data) < size:
            try:
                piece = self._socket.recv(size - len(data))
            except OSError as error:
                raise self._lost(error) from None
            if not piece:
                raise self._lost(None)
            data += piece
        return data

    def _nonsense(self, what: str) -> VhostUserError:
        """After a wrong answer nothing that follows can be told apart: the connection is over."""
        self._broken = True
        return VhostUserError(f"{self.who} broke the vhost-user protocol: it sent {what}")

    def _lost(self, error: OSError | None) -> VhostUserError:
        if isinstance(error, TimeoutError):
            self._broken = True
            return VhostUserError(f"{self.who} has not answered for {SECONDS:.0f} s")
        self.hung_up = self.hung_up or not self._broken
        self._broken = True
        why = f": {os.strerror(error.errno)}" if error is not None and error.errno else ""
        return VhostUserError(f"{self.who} has closed the connection{why}")
