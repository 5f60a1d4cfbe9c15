"""How far a run has come: what the report, ``--timings`` and the exit status are made from."""

from __future__ import annotations

from time import monotonic_ns

from runner.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.definition.findings import Finding
    from runner.definition.model import Definition
    from runner.errors import VmrunError
    from runner.graph.model import BootFiles, Graph
    from runner.host.passthrough.recovery import Restored
    from runner.hostfacts import HostFacts
    from runner.supervisor.control import ControlServer
    from runner.supervisor.ending import Ending
    from runner.supervisor.registry import Registration
    from runner.verdict.decide import Verdict


class Request(NamedTuple):
    """What the command line asks for; None leaves it to the definition.

    ``timeout`` is seconds, 0 for never.
    """

    path: str
    engine: tuple[str, ...] | None = None
    timeout: float | None = None
    name: str | None = None
    detached: bool = False
    settings: tuple[str, ...] = ()  # KEY=VALUE words that go before the file's
    refresh: bool = False  # ask apt anew what a package name stands for


class Run:
    """One run.  ``marks`` are (phase that has ended, CLOCK_MONOTONIC ns)."""

    def __init__(self, request: Request, began_ns: int) -> None:
        self.request = request
        self.began_ns = began_ns
        self.marks: list[tuple[str, int]] = []
        self.name = ""
        self.definition: Definition | None = None
        self.facts: HostFacts | None = None
        self.graph: Graph | None = None
        self.files: BootFiles | None = None
        self.recovered: tuple[Restored, ...] = ()  # what a killed run had left, put back at the start
        self.taken: list[str] = []  # host resources, one clause each
        self.registration: Registration | None = None
        self.control: ControlServer | None = None
        self.log_folder: str | None = None  # of a detached run
        self.on_started: Callable[[], None] | None = None
        self.on_warnings: Callable[[tuple[Finding, ...]], None] | None = None  # of the definition
        self.ending: Ending | None = None
        self.verdict: Verdict | None = None
        self.error: VmrunError | None = None
        self.signal = 0  # that ended it before there was a verdict

    @property
    def status(self) -> int:
        """The exit status of the command."""
        if self.verdict is not None:
            return self.verdict.status
        if self.signal:
            return 128 + self.signal
        return self.error.status if self.error is not None else 70

    @property
    def shows_console(self) -> bool:
        """Whether a console of the guest goes to standard output."""
        nodes = self.graph.nodes if self.graph is not None else ()
        return any(
            claim.kind == "char" and claim.options.get("mode") == "tty"
            for node in nodes
            for claim in node.claim.backends
        )

    def mark(self, phase: str) -> None:
        """``phase`` has ended now."""
        self.marks.append((phase, monotonic_ns()))

    def hang_up(self) -> None:
        """Close the control socket and its clients."""
        if self.control is not None:
            self.control.close()
            self.control = None

    def times(self) -> list[tuple[str, float]]:
        """(phase, milliseconds from the command's start to its end), in order of time."""
        told = self.ending.phases if self.ending is not None else ()
        marks = sorted([*self.marks, *told], key=lambda mark: mark[1])
        return [(phase, round((at - self.began_ns) / 1e6, 3)) for phase, at in marks]
