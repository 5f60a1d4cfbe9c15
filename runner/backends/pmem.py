"""A file that the guest has as memory: mapped beside its RAM, flushed on a thread of its own."""

from __future__ import annotations

import os
from queue import SimpleQueue

from runner.backends import Opened
from runner.errors import HostError, HostPermissionError
from runner.host.affinity import run_anywhere
from runner.light import Thread
from runner.typed import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph

Done = Callable[[int], None]


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open and lock the file, which is at least as long as the memory is to be."""
    from runner.host.image_lock import lock

    given: Any = claim.options["path"]
    path, readonly = str(given["resolved"]), bool(claim.options.get("readonly"))
    fd = _open(path, readonly=readonly)
    try:
        lock(fd, path, exclusive=not readonly)
        wanted: Any = claim.options["size"]
        size = os.fstat(fd).st_size
        if size < wanted:
            raise HostError(
                f"{path} has {size:#x} bytes, and `{claim.name}` wants {wanted:#x} of them as memory",
                hint=f"truncate -s {wanted} {path}",
            )
    except BaseException:
        os.close(fd)
        raise
    return Opened({claim.name: fd}, {}, f"{claim.name}: {path}", lambda: os.close(fd))


def _open(path: str, *, readonly: bool) -> int:
    try:
        return os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    except PermissionError:
        verb = "read" if readonly else "written"
        raise HostPermissionError(f"{path} may not be {verb} by this user", hint=f"ls -l {path}") from None
    except OSError as error:
        raise HostError(f"{path} cannot be opened: {error.strerror}") from None


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> MappedFile:
    """Map it where the graph has put it; devices reach it as they reach RAM."""
    node = next(node for node in machine.graph.nodes if claim in node.claim.backends)
    place = node.claim.regions[0]
    fd, readonly = resources.fds[claim.name], bool(claim.options.get("readonly"))
    region = machine.ram.map_file(fd, place.start, place.size, private=readonly)
    machine.vm.set_memory(machine.memory_slot(), region.start, region.size, region.host_address)
    return MappedFile(fd, machine, keeps=not readonly)


class MappedFile:
    """``PmemBackend``: fdatasync(2) also writes back what was stored through the mapping.

    It can take long, so a thread waits for it, which is made when the guest first asks: the process
    has given its privileges away by then, and a thread keeps those that it was made with.  A private
    mapping keeps nothing, and has nothing to write back.
    """

    def __init__(self, fd: int, machine: Machine, *, keeps: bool) -> None:
        self._fd, self._machine, self._keeps = fd, machine, keeps
        self._asked: SimpleQueue[Done | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._failed = 0  # the errno of the first flush that failed, for good

    def flush(self, done: Done) -> None:
        """``done`` on the device's thread."""
        if self._thread is None:
            self._thread = Thread(target=self._serve, name="pmem-flush", daemon=True)
            self._thread.start()
        self._asked.put(done)

    def _serve(self) -> None:
        run_anywhere()
        while (done := self._asked.get()) is not None:
            self._answer(done, self._sync())

    def _sync(self) -> int:
        try:
            if self._keeps and not self._failed:
                os.fdatasync(self._fd)
        except OSError as error:
            self._failed = error.errno or 5  # EIO
        return self._failed

    def _answer(self, done: Done, error: int) -> None:
        self._machine.loop.call_at(0, lambda: done(error))

    def close(self) -> None:
        """What was asked for is finished first."""
        self._asked.put(None)
        if self._thread is not None:
            self._thread.join()
