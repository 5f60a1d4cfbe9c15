"""Host ends of guest devices: files, taps, terminals, sockets.

One module a backend kind (``kind`` of :class:`runner.graph.model.BackendClaim`, dashes as
underscores).  A module offers

``open_host(claim, graph) -> Opened``       in the supervisor: opens files, taps, sockets, takes
                                            locks, starts helper programs; raises HostError
``attach(claim, resources, machine)``       in the VM process: the object that the device's
                                            Protocol (:mod:`runner.devices.ports`) asks for

so that the VM process itself opens nothing (decision 0001).  A kind without a host
side has no ``open_host``.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.typed import TYPE_CHECKING, Callable, Mapping, NamedTuple

if TYPE_CHECKING:
    from runner.host.helper_process import Helper
    from runner.supervisor.loop import Loop


class Opened(NamedTuple):
    """What a backend holds on the host.

    ``fds`` go to the VM process by name (the claim's own name, or ``name:part``); ``values``
    are facts for it; ``taken`` is one clause for the report; ``close`` gives everything back
    and is called however the run ends.  ``helpers`` are programs that serve it, to be watched;
    ``attend`` is called with the supervisor's loop once the guest runs, for what has to be done
    here meanwhile.  ``notes`` are what the user should know of it, a line each.
    """

    fds: Mapping[str, int] = {}  # noqa: RUF012
    values: Mapping[str, Json] = {}  # noqa: RUF012
    taken: str = ""
    close: Callable[[], None] = lambda: None
    helpers: tuple[Helper, ...] = ()
    attend: Callable[[Loop], None] | None = None
    notes: tuple[str, ...] = ()
