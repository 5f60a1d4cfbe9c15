"""A run under another name than its definition's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.definition.load import load
from runner.devices.virtio_net import derived_mac
from runner.graph.model import Graph
from runner.graph.plan import plan
from runner.graph.renamed import renamed
from runner.supervisor import launch
from tests.unit.plan_goldens import host

TWO_CARDS = """
kernel = { deb = "linux-image-amd64" }
cmdline = ""
[net.lan]
[net.wan]
mac = "52:54:00:12:34:56"
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    (tmp_path / "web.toml").write_text(TWO_CARDS)
    return plan(load(str(tmp_path / "web.toml")), host("laptop"))


def macs(graph: Graph) -> dict[str, Any]:
    return {node.name: node.options["mac"] for node in graph.nodes if node.section == "net"}


def test_a_derived_mac_is_that_of_the_name_a_machine_runs_under(graph: Graph) -> None:
    """One that is stated stays, and nothing else changes; back under its name a machine is what it was."""
    other = renamed(graph, "web-2")
    assert macs(graph) == {"lan": derived_mac("web", "lan"), "wan": "52:54:00:12:34:56"}
    assert macs(other) == {"lan": derived_mac("web-2", "lan"), "wan": "52:54:00:12:34:56"}
    changed = [after.name for before, after in zip(graph.nodes, other.nodes, strict=True) if before != after]
    assert changed == ["lan"]
    lan = next(node for node in other.nodes if node.name == "lan")
    assert lan.claim.backends[0].options["mac"] == derived_mac("web-2", "lan")
    assert renamed(other._replace(name="web-2"), "web") == graph._replace(name="web-2")


@pytest.mark.parametrize(
    ("named", "expected"), [("web", "web"), ("web-2", "web-2"), ("my_web", "my web"), ("other", "other")]
)
def test_a_run_has_the_addresses_of_its_name(
    graph: Graph, named: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that `vmrun ps` shows; a definition's own is that too when its characters had to change."""
    started: list[Graph] = []
    if expected == "my web":
        graph = renamed(graph, "my web")._replace(name="my web")

    def register(run: Any, *_: object) -> None:
        run.name = named

    def supervise(_run: object, graph: Graph, *_: object) -> None:
        started.append(graph)

    replaced = {
        "_recover": lambda *_: None,
        "_anticipate": lambda *_: None,
        "_resolve": lambda *_: (graph, SimpleNamespace(prepare=lambda *_: None)),
        "_announce": lambda *_: None,
        "_register": register,
        "_fetch": lambda *_: None,
        "_supervise": supervise,
        "_judge": lambda *_: None,
    }
    for name, function in replaced.items():
        monkeypatch.setattr(launch, name, function)
    request = SimpleNamespace(detached=False, refresh=False)
    run: Any = SimpleNamespace(request=request, definition=None, mark=lambda *_: None, graph=graph)
    signals: Any = SimpleNamespace(defer=lambda: None)
    launch._execute(run, signals, lambda *_: None, ExitStack())
    assert macs(started[0])["lan"] == derived_mac(expected, "lan")
    assert run.graph == started[0]
