"""Signals by phase, in a process of its own each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def outcome(script: str) -> str:
    """What a small program prints that has ``signals`` installed."""
    head = (
        "import os, signal, time\nfrom runner.host.signals import Interrupted, Signals\n"
        "signals = Signals()\nsignals.install()\n"
    )
    end = "\nsignals.close()\n"  # as the command does: the timer must not outlive Python's handlers
    done = subprocess.run(
        [sys.executable, "-c", head + script + end],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_signal_interrupts_until_it_is_deferred_and_is_noted_then() -> None:
    script = """
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
except Interrupted as interrupted:
    print(interrupted)
signals.defer()
os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGHUP)
print(sorted(signals.noted()), signals.noted())
"""
    assert outcome(script) == "ended by SIGTERM\n[1, 2] []"


def test_a_call_that_blocks_is_interrupted_again_and_again() -> None:
    """A signal may come when Python has looked for the last time and the call does not block yet."""
    script = """
looks = []
handle = signal.getsignal(signal.SIGALRM)
reader, writer = os.pipe()
def look(number, frame):
    looks.append(number)
    handle(number, frame)
    if len(looks) == 3:
        os.write(writer, b"3")
signal.signal(signal.SIGALRM, look)
print(os.read(reader, 1))
"""
    assert outcome(script) == "b'3'"


def test_an_interrupt_that_a_destructor_has_swallowed_is_raised_again() -> None:
    script = """
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
Swallows()
try:
    time.sleep(10)
except Interrupted as interrupted:
    print(interrupted)
"""
    assert outcome(script) == "ended by SIGTERM"


def test_a_noted_signal_is_met_between_two_steps() -> None:
    script = """
signals.defer()
os.kill(os.getpid(), signal.SIGTERM)
try:
    signals.check()
except Interrupted as interrupted:
    print(interrupted.number)
"""
    assert outcome(script) == "15"


def test_an_alarm_is_never_an_end() -> None:
    script = """
time.sleep(0.6)
signals.defer()
os.kill(os.getpid(), signal.SIGALRM)
print(signals.noted())
"""
    assert outcome(script) == "[]"


def test_handlers_are_given_back() -> None:
    script = """
signals.close()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.getitimer(signal.ITIMER_REAL))
"""
    assert outcome(script) == "True (0.0, 0.0)"
