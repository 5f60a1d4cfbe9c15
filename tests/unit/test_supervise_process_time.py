"""CPU time of a process, as the verdict on a silent guest needs it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from runner.host import process_time


def test_a_process_that_spins_uses_time_and_one_that_sleeps_does_not() -> None:
    spinning = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    sleeping = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.3)
        used = [process_time.cpu_seconds(child.pid) or 0.0 for child in (spinning, sleeping)]
        time.sleep(0.4)
        more = [process_time.cpu_seconds(child.pid) or 0.0 for child in (spinning, sleeping)]
        assert more[0] - used[0] > 0.3
        assert more[1] - used[1] < 0.05
    finally:
        for child in (spinning, sleeping):
            child.kill()
            child.wait()


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
