"""CPU time of a process, as the verdict on a silent guest needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.host import process_time


def test_a_process_that_spins_uses_time_and_one_that_sleeps_does_not() -> None:
    spinning = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    sleeping = subprocess.Popen(["sleep", "60"])
    try:
        _wait_for(lambda: _is(sleeping, b"(sleep) S"))
        slept, spun = _used(sleeping), _used(spinning)
        _wait_for(lambda: _used(spinning) - spun > 0.3)
        assert _used(sleeping) - slept < 0.05
    finally:
        for child in (spinning, sleeping):
            child.kill()
            child.wait()


def _used(child: subprocess.Popen[bytes]) -> float:
    used = process_time.cpu_seconds(child.pid)
    assert used is not None
    return used


def _is(child: subprocess.Popen[bytes], name_and_state: bytes) -> bool:
    return name_and_state in Path(f"/proc/{child.pid}/stat").read_bytes()


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert process_time.cpu_seconds(child.pid) is None


def test_a_kernel_without_schedstat_is_read_by_its_stat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with blanks and parentheses does not shift the fields."""
    words = process_time._words

    def without_schedstat(path: str) -> list[bytes]:
        if path.endswith("schedstat"):
            raise FileNotFoundError(path)
        return words(path)

    monkeypatch.setattr(process_time, "_words", without_schedstat)
    times = os.times()
    assert process_time.cpu_seconds(os.getpid()) == pytest.approx(times.user + times.system, abs=0.1)
