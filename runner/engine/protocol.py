"""What the supervisor and an engine say to each other.

An engine starts one *VM process* from a graph, fetched artifacts and descriptors that the
supervisor has opened.  From then on the two speak through :class:`GuestProcess` only.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BootFiles, Graph
from runner.typed import Mapping, NamedTuple, Protocol

WANTED_BACK = "the host wants {address} back: it is unplugged, or taken from vfio-pci"
BROKEN = "{address} has met an error that it does not recover from (dmesg says more)"
"""What the end "device-lost" is for, in any engine's words."""


class Resources(NamedTuple):
    """Descriptors opened by the supervisor, by backend name ("serial", "disks.root").

    A character backend is one end of a SOCK_STREAM socketpair: the guest's output is
    written to it and input read from it; the supervisor holds the other end.
    """

    fds: Mapping[str, int]
    values: Mapping[str, Json] = {}  # noqa: RUF012


class Event(NamedTuple):
    """Something the VM process tells.

    kind "phase": data {"name": "first-instruction", "at_ns": CLOCK_MONOTONIC}; this is the first event of a
        guest that has started, and other phases may follow: "vm-…", what its process did before
    kind "end":   data {"reason": one of runner.verdict.reasons, "status": int | None, "detail": str},
        and "dropped": the bytes of output that were lost on their way to the supervisor, where that is known
    kind "log":   data {"level": "warning", "event": str, …}
    kind "state": data {"state": "running" | "paused"}
    kind "balloon": data {"bytes": what the guest has given back, all in all}
    """

    kind: str
    data: Mapping[str, Json]


class GuestProcess(Protocol):
    """A started VM process, seen from the supervisor."""

    @property
    def pid(self) -> int: ...

    @property
    def pidfd(self) -> int:
        """Becomes readable when the process has ended."""

    @property
    def events_fd(self) -> int:
        """Becomes readable when :meth:`events` has something."""

    def events(self) -> list[Event]:
        """What has been told since the last call; never blocks."""

    def ask(self, action: str) -> None:
        """power-button, pause, resume, reset, quit, or snapshot-state (the CPUs now: an Event "log"),
        or balloon BYTES."""

    def close(self) -> None:
        """Kill the process if it lives, reap it, close what belongs to it.  Idempotent."""


class Engine(Protocol):
    """``kvm`` (ours) or ``qemu``."""

    @property
    def name(self) -> str: ...

    def prepare(self, graph: Graph, files: BootFiles) -> None:
        """Begin with what needs nothing of the host but the files; :meth:`start` does the rest.

        What goes wrong meanwhile is told there.
        """

    def start(self, graph: Graph, files: BootFiles, resources: Resources) -> GuestProcess:
        """Start the VM process.  Raises HostError before anything runs."""
