"""A tap interface of the host as a network card's other end."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.host import tap
from runner.typed import TYPE_CHECKING, Any, Callable, Sequence

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open one descriptor a queue; an interface that we made is set up, and goes with its last one."""
    wanted = str(claim.options.get("tap") or "")
    ours = not (wanted and tap.exists(wanted))
    queues: Any = claim.options.get("queues", 1)
    mtu: Any = claim.options.get("mtu", 1500)
    name, fds = tap.open_queues(wanted, queues)
    try:
        if ours:
            tap.bring_up(name, mtu)
    except BaseException:
        _close(fds)
        raise
    named = {claim.name if number == 0 else f"{claim.name}:{number}": fd for number, fd in enumerate(fds)}
    made = ", made for this run" if ours else ""
    return Opened(named, {claim.name: name}, f"{claim.name}: tap {name}{made}", lambda: _close(fds))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def queue_fds(name: str, resources: Resources) -> list[int]:
    """The tap's descriptors in order."""
    fds = [resources.fds[name]]
    while (more := resources.fds.get(f"{name}:{len(fds)}")) is not None:
        fds.append(more)
    return fds


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> Tap:
    """The interface as the card sees it."""
    return Tap(claim.name, queue_fds(claim.name, resources), machine)


class Tap:
    """``NetBackend``: one frame queue a descriptor.

    An interface that somebody deletes leaves descriptors behind that fail every call
    (drivers/net/tun.c: EBADFD): the network is lost then, and the guest goes on without it.
    """

    offloads = True

    def __init__(self, name: str, fds: list[int], machine: Machine) -> None:
        self._name, self._fds, self._machine = name, fds, machine
        self.queues: Sequence[TapQueue] = [TapQueue(fd, machine, self._lose) for fd in fds]
        self._gone = False

    def set_offloads(self, flags: int) -> None:
        """TUNSETOFFLOAD, for the whole interface."""
        try:
            tap.set_offloads(self._fds[0], flags)
        except OSError as error:
            self._lose(error)

    def set_pairs(self, count: int) -> None:
        """The first ``count`` queues take frames."""
        try:
            for number, queue in enumerate(self.queues if len(self._fds) > 1 else ()):
                queue.use(number < count)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Told once, whichever queue notices."""
        if not self._gone:
            self._gone = True
            reason = os.strerror(error.errno or 0)
            self._machine.log("error", "network-lost", device=self._name, reason=reason)


class TapQueue:
    """``FrameQueue``: whole frames behind a virtio-net header."""

    header_size = tap.HEADER_SIZE

    def __init__(self, fd: int, machine: Machine, lose: Callable[[OSError], None]) -> None:
        self._fd, self._machine, self._lose = fd, machine, lose
        self._in_use = True
        self._gone = False

    def use(self, wanted: bool) -> None:
        """Attach or detach the queue, if it is not so already."""
        if wanted != self._in_use:
            tap.use_queue(self._fd, wanted)
            self._in_use = wanted

    def send(self, parts: Sequence[memoryview]) -> bool:
        """One frame; the kernel drops what it does not like, and so do we."""
        try:
            os.writev(self._fd, parts)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def receive(self, into: memoryview) -> int:
        """One frame, or 0."""
        try:
            return os.readv(self._fd, [into])
        except BlockingIOError:
            return 0
        except OSError as error:
            self._gone = True
            self._machine.loop.remove_reader(self._fd)  # which would be called without end
            self._lose(error)
            return 0

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """Frames wait."""
        if callback is None or self._gone:
            self._machine.loop.remove_reader(self._fd)
        else:
            self._machine.loop.add_reader(self._fd, callback)

    def on_writable(self, callback: Callable[[], None]) -> None:
        """A tap always takes a frame again by the next turn of the loop."""
        import time

        self._machine.loop.call_at(time.monotonic_ns() + 100_000, callback)
