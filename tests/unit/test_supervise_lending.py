"""What a run tells of functions that it lends, and of those that an earlier one had left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import runner.host.passthrough.recovery
import runner.host.passthrough.state
import runner.host.passthrough.transaction
from runner.definition.model import DeviceEntry
from runner.host.passthrough.recovery import Restored
from runner.hostfacts import HostFacts
from runner.light import ExitStack
from runner.supervisor import launch
from runner.supervisor.record import Request, Run

BACK = Restored("0000:01:00.0", "rtsx_pci", "killed", "")
STUCK = Restored("/run/1-00.json", "", "", "it is no journal")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of one device, whose preparation first undoes what a killed run had left."""
    prepared = SimpleNamespace(recovered=(STUCK, BACK), lent=(), lock_fd=-1, restore=tuple)
    monkeypatch.setattr(runner.host.passthrough.transaction, "prepare", lambda *_, **__: prepared)
    monkeypatch.setattr(runner.host.passthrough.state, "pending", lambda _folder: True)
    made = Run(Request("vm.toml"), 0)
    entries = (DeviceEntry("devices", "reader", "vfio", {"host": "0000:01:00.0"}),)
    made.definition = SimpleNamespace(devices=entries)  # type: ignore[assignment]
    made.facts = HostFacts()
    return made


def told(run: Run) -> list[tuple[str, str]]:
    """What is said from the start until the functions are lent."""
    lines: list[tuple[str, str]] = []
    graph: Any = SimpleNamespace(memory=SimpleNamespace(size=1 << 29))
    backends: Any = SimpleNamespace(fds={})

    def tell(level: str, words: str) -> None:
        lines.append((level, words))

    with ExitStack() as keep:
        launch._recover(run, tell)
        launch._lend(run, graph, backends, keep, tell)
    return lines


@pytest.mark.parametrize("at_the_start", [(), (STUCK,)])
def test_what_is_put_back_under_the_lock_is_told_once(
    run: Run, monkeypatch: pytest.MonkeyPatch, at_the_start: tuple[Any, ...]
) -> None:
    """The start looks first and waits for nobody, so the rest may come to light when drivers are changed."""
    monkeypatch.setattr(runner.host.passthrough.recovery, "recover", lambda: at_the_start)
    assert sorted(told(run)) == [
        ("error", "/run/1-00.json: it is no journal"),
        ("info", "0000:01:00.0 is back with rtsx_pci"),
    ]
