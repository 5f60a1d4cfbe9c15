"""The engine ``kvm`` as the supervisor sees it: fork, hand the descriptors over, listen."""

from __future__ import annotations

import os
import select
from time import monotonic

from runner.engine import patience
from runner.engine.protocol import Event, Resources
from runner.errors import HostError, HostPermissionError, InternalError, VmrunError
from runner.graph.model import BootFiles, Graph
from runner.host.process_end import how_it_ended, what_to_do
from runner.light import signal, suppress
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.engine.kvm.early import Waiting

EARLY_END_SECONDS = 5  # a process that has closed its socket ends by itself
LINE_LIMIT = 1 << 20


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
            started.await_start(patience.seconds(graph))
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
        self._closed = self._garbled = False

    def await_start(self, seconds: float) -> None:
        """Return at the first instruction; raise what kept the guest from it.

        What is logged before stays for :meth:`events`.
        """
        os.set_blocking(self.events_fd, False)
        poll = select.poll()
        poll.register(self.events_fd, select.POLLIN)
        until = monotonic() + seconds
        while (first := self._decisive()) is None:
            if not poll.poll(max(0.0, until - monotonic()) * 1000):
                raise HostError(f"the VM process has not started the guest within {seconds:.0f} s")
            if not self._receive():
                raise self._early_end()
        if first.kind == "failed":
            raise _as_error(dict(first.data))
        if first.kind == "end":
            raise InternalError(str(first.data["detail"]))

    def _decisive(self) -> Event | None:
        """What says that the guest runs or will not; a device may log something before."""
        return next((event for event in self._ready if event.kind in ("phase", "failed", "end")), None)

    def _early_end(self) -> InternalError:
        """It has closed its side and said nothing: what its own end tells."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(EARLY_END_SECONDS * 1000)
        how = how_it_ended(self.pidfd) or "it has closed its socket"
        return InternalError(
            f"the VM process died before the guest's first instruction ({how})",
            hint=what_to_do(how),
        )

    def _receive(self) -> bool:
        """Take what has come; False at the end of the stream.

        A guest may have taken the process over: what is no event ends the run, and is read no further.
        """
        try:
            data = os.read(self.events_fd, 65536)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if self._garbled:
            return bool(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            if len(self._partial) > LINE_LIMIT:
                raise ValueError(f"a line of more than {LINE_LIMIT} bytes")
            for line in lines:
                self._ready.append(_event(line))
        except (ValueError, RecursionError) as error:
            self._garbled, self._partial = True, b""
            detail = f"the VM process does not speak as it should: {error}"
            self._ready.append(Event("end", {"reason": "engine-died", "status": None, "detail": detail}))
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


def _event(line: bytes) -> Event:
    """Raises ValueError for what is none."""
    import json

    told = json.loads(line)
    if not (
        isinstance(told, dict) and isinstance(told.get("kind"), str) and isinstance(told.get("data"), dict)
    ):
        raise ValueError(f"{line[:80]!r} is no event")
    return Event(told["kind"], told["data"])


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
    detail = event.data.get("message")
    return Event("end", {"reason": "internal-error", "status": None, "detail": detail, "facts": facts})
