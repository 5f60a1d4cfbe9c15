"""What a backend says when it is opened gets to the user."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runner.backends import Opened
from runner.graph.model import BackendClaim, Claim, Node
from runner.light import ExitStack
from runner.supervisor.openers import Backends


def test_a_note_of_several_backends_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two qcow2 disks on a kernel without Landlock are one warning; what only one says is told too."""
    module: Any = ModuleType("runner.backends.noted")
    module.open_host = lambda claim, graph: Opened(notes=("both say this", f"{claim.name} says this"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    nodes = [
        Node("disk", name, "disks", {}, Claim(backends=(BackendClaim(f"disks.{name}", "noted"),)))
        for name in "ab"
    ]
    graph: Any = SimpleNamespace(nodes=nodes)
    told: list[tuple[str, str]] = []
    with ExitStack() as keep:
        Backends(keep, lambda level, text: told.append((level, text)), None, None).open(graph)
    texts = ["both say this", "disks.a says this", "disks.b says this"]
    assert told == [("warning", text) for text in texts]
