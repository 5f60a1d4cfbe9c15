"""The supervisor's half of the VM process: what decides that a guest has started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from runner.engine.kvm.early import Waiting
from runner.engine.kvm.engine import KvmProcess
from runner.errors import HostError

LOG = {"kind": "log", "data": {"level": "warning", "event": "a word beforehand"}}
PHASE = {"kind": "phase", "data": {"name": "first-instruction", "at_ns": 1}}
FAILED = {"kind": "failed", "data": {"message": "no memory", "status": 69}}


@pytest.fixture
def process() -> Iterator[tuple[KvmProcess, socket.socket]]:
    """A VM process that says what a test makes it say."""
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(["/bin/sleep", "60"])
    started = KvmProcess(Waiting(child.pid, ours.detach()))
    yield started, theirs
    started.close()
    child.returncode = 0  # reaped by the process itself
    theirs.close()


def say(channel: socket.socket, *events: dict[str, Any]) -> None:
    for event in events:
        channel.send(json.dumps(event).encode() + b"\n")


def test_a_logged_word_is_no_start(process: tuple[KvmProcess, socket.socket]) -> None:
    """A guest has started when its first instruction is told, not when a line is logged on the way."""
    started, channel = process
    say(channel, LOG)
    with pytest.raises(HostError, match="has not started the guest"):
        started.await_start(0.05)
    say(channel, PHASE)
    started.await_start(5)
    assert [event.kind for event in started.events()] == ["log", "phase"]


def test_what_fails_after_a_logged_word_is_raised(process: tuple[KvmProcess, socket.socket]) -> None:
    """The word before does not hide it."""
    started, channel = process
    say(channel, LOG, FAILED)
    with pytest.raises(HostError, match="no memory"):
        started.await_start(5)
    assert os.path.exists(f"/proc/{started.pid}")
