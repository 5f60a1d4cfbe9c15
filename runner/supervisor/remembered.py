"""A checked definition and its plan, remembered by content: the second run needs neither parser,
schema nor planner.

A record is believed only when all that decided it is the same: the texts of the definition, its place,
the words of the command line, this program (its version and its files, see :func:`_sources`), the home
directory that ``~`` means, and the host's facts, read anew each time.  Anything else is a miss, which
only costs time.
"""

from __future__ import annotations

import marshal
import os
from binascii import crc32

from runner import __version__
from runner.artifacts.cache import cache_root
from runner.graph.plain import plain, revive
from runner.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runner.definition.model import Definition
    from runner.graph.model import Graph
    from runner.hostfacts import HostFacts
    from runner.supervisor.record import Request

REVISION = 3
VOLATILE = ("memory_available", "hugepages")  # facts that change by themselves; no plan looks at them
DECIDING = (
    "", "definition", "graph", "devices", "bus", "wire", "lending", "host", "host/passthrough", "supervisor",
    "engine", "engine/kvm", "engine/qemu", "schemas", "schemas/devices",
)  # fmt: skip
"""Folders of this package whose files decide what a definition means, and what an engine refuses."""

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Recalled(NamedTuple):
    """What an earlier run with the same inputs has found."""

    definition: Definition
    graph: Graph


class Memory:
    """The record of one command line; ``recall`` first, ``keep`` after a miss."""

    def __init__(self, request: Request) -> None:
        self.data = _read(request.path)
        self._question = _question(request, self.data)
        name = f"{crc32(repr(self._question[:-1]).encode()):08x}"
        self._path = os.path.join(cache_root(), "plans", name)
        self._record: Any = None
        try:
            with open(self._path, "rb") as file:
                record = marshal.loads(file.read())  # noqa: S302  # the user's own cache, as are .pyc files
            if record[0] == self._question and _unchanged(record[5]):
                self._record = record
        except (OSError, ValueError, EOFError, TypeError, IndexError):
            return  # none, or damaged: a miss

    def passes_devices(self) -> bool | None:
        """Whether the plan looks at the host's PCI functions; None when nothing is remembered."""
        return None if self._record is None else bool(self._record[1])

    def recall(self, facts: HostFacts) -> Recalled | None:
        """Definition and graph, if the host is what it was."""
        if self._record is None or self._record[2] != _lasting(facts):
            return None
        try:
            return Recalled(revive(self._record[3]), revive(self._record[4]))
        except (ValueError, TypeError, AttributeError):
            return None

    def keep(self, definition: Definition, graph: Graph, facts: HostFacts, *, passes: bool) -> None:
        """Remember; a cache that cannot be written remembers nothing."""
        if self.data is None:
            return
        pieces = [(path, text.encode()) for path, text in definition.pieces]
        record = (self._question, passes, _lasting(facts), plain(definition), plain(graph), pieces)
        scratch = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(scratch, "wb") as file:
                file.write(marshal.dumps(record))
            os.rename(scratch, self._path)
        except (OSError, ValueError):
            return


def _read(path: str) -> bytes | None:
    """The text itself, which may be a pipe's and is read once; None where the loader tells why not."""
    from runner.definition.file import read_file
    from runner.errors import VmrunError

    try:
        return read_file(path)
    except VmrunError:
        return None


def _unchanged(pieces: list[tuple[str, bytes]]) -> bool:
    """Whether the files that the definition extends still say what they said."""
    return all(_read(path) == text for path, text in pieces)


def _question(request: Request, text: bytes | None) -> tuple[Any, ...]:
    """Everything but the host and the pieces that decides a plan; the text itself comes last."""
    path = os.path.abspath(request.path)
    settings, engine = tuple(request.settings), request.engine and tuple(request.engine)
    home = os.environ.get("HOME", "")
    return (REVISION, __version__, _sources(), path, request.path, home, settings, engine, text)


def _sources() -> tuple[Any, ...]:
    """In a checkout: name, size and time of every file that decides.

    An installed package is not edited but replaced, also by one that calls itself the same version: files
    are made anew then, which the folders' times tell, at the price of a few calls and not of hundreds.
    """
    if not os.path.exists(os.path.join(os.path.dirname(PACKAGE), "pyproject.toml")):
        return tuple(os.stat(os.path.join(PACKAGE, room)).st_mtime_ns for room in DECIDING)
    found = []
    for room in DECIDING:
        with os.scandir(os.path.join(PACKAGE, room)) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".json")):
                    state = entry.stat()
                    found.append((room, entry.name, state.st_size, state.st_mtime_ns))
    return tuple(sorted(found))


def _lasting(facts: HostFacts) -> Any:
    """The facts without those that change by themselves."""
    return plain(facts._replace(**{name: type(facts)._field_defaults[name] for name in VOLATILE}))
