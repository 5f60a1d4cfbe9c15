"""From a graph's backend claims to open descriptors.

Character backends are opened here, since they stay with the supervisor; every other kind
by its module, as :mod:`runner.backends` says.
"""

from __future__ import annotations

from runner.errors import DefinitionError
from runner.light import ExitStack
from runner.supervisor.console import Console
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.backends import Opened
    from runner.backends.stdio import StandardStreams
    from runner.definition.model import Json
    from runner.graph.model import BackendClaim, Graph
    from runner.host.helper_process import Helper
    from runner.supervisor.endpoint import Endpoint, Tell
    from runner.supervisor.loop import Loop


class Backends:
    """All backends of a graph, opened; ``keep`` gives them back in reverse order.

    ``streams`` are there when a console is to have the standard streams; ``log_folder`` when
    the run has none, and what would go there goes to a log.
    """

    def __init__(
        self, keep: ExitStack, tell: Tell, streams: StandardStreams | None, log_folder: str | None
    ) -> None:
        self._streams = streams
        self._log_folder = log_folder
        self.fds: dict[str, int] = {}
        self.values: dict[str, Json] = {}
        self.taken: list[str] = []
        self.consoles: list[Console] = []
        self.helpers: list[Helper] = []
        self._attend: list[Callable[[Loop], None]] = []
        self._noted: set[str] = set()
        self._keep = keep
        self._tell = tell

    def open(self, graph: Graph) -> None:
        """Everything that ``graph`` claims.  Raises HostError."""
        for node in graph.nodes:
            for claim in node.claim.backends:
                if claim.kind == "char":
                    self._open_console(claim)
                else:
                    self._open_other(claim, graph)

    def hand_over(self) -> None:
        """The VM process has its descriptors: close ours, so that its end is seen as an end."""
        import os

        for console in self.consoles:
            os.close(self.fds.pop(console.name))

    def attend(self, loop: Loop) -> None:
        """Let backends do what they have to do here while the guest runs."""
        for attend in self._attend:
            attend(loop)

    def _open_console(self, claim: BackendClaim) -> None:
        from runner.host import unix_socket

        endpoint = self._character(claim)
        self._keep.callback(endpoint.close)
        ours, theirs = unix_socket.pair()
        console = Console(claim.name, ours)
        console.endpoints.append(endpoint)
        self.fds[claim.name] = theirs
        self.consoles.append(console)

    def _open_other(self, claim: BackendClaim, graph: Graph) -> None:
        from importlib import import_module

        if claim.name in self.fds:  # two devices share it: an IOMMU group, the VFIO container
            return
        module = import_module(f"runner.backends.{claim.kind.replace('-', '_')}")
        if not hasattr(module, "open_host"):
            return
        opened: Opened = module.open_host(claim, graph)
        self._keep.callback(opened.close)
        self.fds.update(opened.fds)
        self.values.update(opened.values)
        self.helpers += opened.helpers
        if opened.attend is not None:
            self._attend.append(opened.attend)
        if opened.taken:
            self.taken.append(opened.taken)
        for note in opened.notes:
            if note not in self._noted:  # once, however many disks say it
                self._noted.add(note)
                self._tell("warning", note)

    def _character(self, claim: BackendClaim) -> Endpoint:
        """The host end of one serial line or console, by its mode."""
        mode = str(claim.options.get("mode", "null"))
        place = claim.options.get("path")
        path = str(place.get("resolved", "")) if isinstance(place, dict) else ""
        if mode == "tty" and self._streams is not None:
            return self._streams.endpoint()
        if mode == "tty":
            from runner.backends.log_file import LogFile

            return LogFile(f"{self._log_folder}/{claim.name}.log", self._tell)
        from runner.backends import char

        if mode == "file" and path:
            return char.open_file(claim.name, path, self._tell)
        if mode == "socket" and path:
            return char.SocketEndpoint(claim.name, self._tell, path)
        if mode == "pty":
            return char.PtyEndpoint(claim.name, self._tell, path or None)
        if mode == "null":
            return char.NullEndpoint()
        raise DefinitionError(f"`{claim.name}` cannot go to {mode} without a path")
