"""The engine ``kvm`` as the supervisor sees it: fork, hand the descriptors over, listen."""

from __future__ import annotations

import os
import select

from runner.engine.protocol import Event, Resources
from runner.errors import HostError, HostPermissionError, InternalError, VmrunError
from runner.graph.model import BootFiles, Graph
from runner.host.process_end import how_it_ended
from runner.light import signal, suppress
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.engine.kvm.early import Waiting

START_SECONDS = 60  # a host so slow that ioctls take longer is as good as dead
EARLY_END_SECONDS = 5  # a process that has closed its socket ends by itself
DECIDES = ("phase", "failed", "end")  # events that say whether the guest has started
GIB_SECONDS = 60  # more for each GiB that is cleared and pinned before the first instruction


class KvmEngine:
    """Our own engine on ``/dev/kvm``."""

    name = "kvm"

    def __init__(self, waiting: Waiting | None = None) -> None:
        self.waiting = waiting  # a VM process that was forked before it was known what for
        self._prepared = False

    def prepare(self, graph: Graph, files: BootFiles) -> None:
        """A VM process that waits makes memory and CPUs, and loads the kernel, from now on."""
        if self.waiting is not None and not self._prepared:
            self._give_job(self.waiting, graph, files)

    def start(self, graph: Graph, files: BootFiles, resources: Resources) -> KvmProcess:
        """Give the VM process the rest of its job, and wait for the first instruction."""
        from runner.engine.kvm import early, handover

        waiting, self.waiting = self.waiting or early.fork(), None
        started = KvmProcess(waiting)
        try:
            if not self._prepared:
                self._give_job(waiting, graph, files)
            with suppress(ConnectionError):  # it is dead: whatever it still said comes next
                handover.send_resources(started.events_fd, resources)
            started.await_start(_patience(graph))
        except BaseException:
            started.close()
            raise
        return started

    def _give_job(self, waiting: Waiting, graph: Graph, files: BootFiles) -> None:
        """Open ``/dev/kvm`` here, where errors are told best, and say which machine it is."""
        from runner.engine.kvm import handover
        from runner.host.kvm_device import open_kvm

        kvm_fd = open_kvm()
        try:
            with suppress(ConnectionError):
                handover.send_job(waiting.control, handover.Job(graph, files, kvm_fd))
        finally:
            os.close(kvm_fd)
        self._prepared = True


class KvmProcess:
    """The VM process (``GuestProcess``)."""

    def __init__(self, waiting: Waiting) -> None:
        self.pid, self.events_fd = waiting.pid, waiting.control
        waiting.pid = 0  # it is ours to end now
        self.pidfd = os.pidfd_open(self.pid)
        self._partial = b""
        self._ready: list[Event] = []
        self._closed = False

    def await_start(self, seconds: float) -> None:
        """Return at the first instruction; raise what kept the guest from it.

        What is logged before stays for :meth:`events`.
        """
        os.set_blocking(self.events_fd, False)
        poll = select.poll()
        poll.register(self.events_fd, select.POLLIN)
        while not (decided := [event for event in self._ready if event.kind in DECIDES]):
            if not poll.poll(seconds * 1000):
                raise HostError(f"the VM process has not started the guest within {seconds:.0f} s")
            if not self._receive():
                raise self._early_end()
        if decided[0].kind == "failed":
            raise _as_error(dict(decided[0].data))

    def _early_end(self) -> InternalError:
        """It has closed its side and said nothing: what its own end tells."""
        select.select([self.pidfd], [], [], EARLY_END_SECONDS)
        how = how_it_ended(self.pidfd) or "it has closed its socket"
        return InternalError(
            f"the VM process died before the guest's first instruction ({how})",
            hint="the kernel's log says whether memory ran out: dmesg | tail" if "SIGKILL" in how else "",
        )

    def _receive(self) -> bool:
        """Take what has come; False at the end of the stream."""
        import json

        try:
            data = os.read(self.events_fd, 65536)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._ready.append(Event(told["kind"], told["data"]))
        return bool(data)

    def events(self) -> list[Event]:
        """What has been told since the last call."""
        if not self._closed:
            self._receive()
        ready, self._ready = self._ready, []
        return [_ended(event) if event.kind == "failed" else event for event in ready]

    def ask(self, action: str) -> None:
        """Send a request; a process that has gone is no error, its end is told elsewhere."""
        try:
            os.write(self.events_fd, action.encode() + b"\n")
        except OSError:
            return

    def close(self) -> None:
        """Kill and reap; idempotent."""
        if self._closed:
            return
        self._closed = True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.events_fd)


def _patience(graph: Graph) -> float:
    """Seconds until a VM process that has not started the guest is given up."""
    pinned = any(claim.kind == "vfio_container" for node in graph.nodes for claim in node.claim.backends)
    touched = graph.memory.size if pinned or graph.memory.prefault else 0
    return START_SECONDS + GIB_SECONDS * touched / (1 << 30)


def _as_error(data: dict[str, Any]) -> VmrunError:
    """A VmrunError of the VM process, raised again here with its status."""
    kinds = {69: HostError, 77: HostPermissionError}
    error = kinds.get(data["status"], VmrunError)(data["message"], hint=data.get("hint", ""))
    error.status = data["status"]
    if data.get("traceback"):
        error.add_note(data["traceback"])
    return error


def _ended(event: Event) -> Event:
    """A failure after the start is an end like any other."""
    facts = {"traceback": event.data.get("traceback")}
    return Event(
        "end", {"reason": "internal-error", "status": None, "detail": event.data["message"], "facts": facts}
    )
