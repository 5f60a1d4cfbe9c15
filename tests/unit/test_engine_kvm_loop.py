"""Timers of the device thread, set by threads that know nothing of each other."""

from __future__ import annotations

import select
import threading
import time

import pytest

from runner.engine.kvm import loop as module
from runner.engine.kvm.loop import DeviceLoop
from runner.light import RLock, heappush

FAR_NS = 1 << 62


@pytest.fixture
def loop():
    made = DeviceLoop(RLock())
    yield made
    made.stop()


def between(monkeypatch, what):
    """Let another thread do ``what`` as soon as a timer has been put in, before that is looked at."""
    seen: list[threading.Thread] = []

    def push(timers, timer):
        heappush(timers, timer)
        if not seen:
            seen.append(threading.Thread(target=what))
            seen[0].start()
            seen[0].join(0.2)

    monkeypatch.setattr(module, "heappush", push)
    return seen


def woken(loop: DeviceLoop) -> bool:
    return bool(select.select([loop._wake], [], [], 0)[0])


def test_a_timer_that_the_device_thread_has_taken_meanwhile_is_no_fault(loop, monkeypatch):
    """A flush of persistent memory is told with a time that has passed already."""
    fired: list[int] = []
    others = between(monkeypatch, loop._fire)
    loop.call_at(0, lambda: fired.append(1))
    others[0].join()
    loop._fire()
    assert fired == [1]


def test_the_nearest_timer_wakes_the_loop_whoever_sets_another(loop, monkeypatch):
    others = between(monkeypatch, lambda: loop.call_at(FAR_NS, lambda: None))
    loop.call_at(0, lambda: None)
    others[0].join()
    assert woken(loop)


def test_a_later_timer_wakes_nobody(loop):
    loop.call_at(FAR_NS, lambda: None)
    loop._serve(loop._wake)
    loop.call_at(FAR_NS + 1, lambda: None)
    assert not woken(loop)


def test_timers_fire_in_their_order_and_those_of_one_moment_as_they_were_set(loop):
    fired: list[str] = []
    for at, name in ((2, "c"), (1, "a"), (1, "b")):
        loop.call_at(at, lambda name=name: fired.append(name))
    loop._fire()
    assert fired == ["a", "b", "c"]


def test_a_timer_of_the_far_future_is_waited_for(loop):
    """epoll refuses more than 24.8 days."""
    loop.call_at(FAR_NS, lambda: None)
    running = threading.Thread(target=loop.run)
    running.start()
    loop.wake()
    time.sleep(0.05)
    assert running.is_alive()
    loop.stop()
    running.join(5)
    assert not running.is_alive()


def test_a_cancelled_timer_does_not_fire_and_many_of_them_take_no_room(loop):
    fired: list[int] = []
    loop.call_at(0, lambda: fired.append(1))
    loop.cancel(loop.call_at(0, lambda: fired.append(2)))
    for _ in range(10_000):
        loop.cancel(loop.call_at(FAR_NS, lambda: fired.append(3)))
    assert len(loop._timers) < 100
    loop._fire()
    assert fired == [1]
    loop.cancel(1)  # it has fired: nothing to do
    loop.call_at(0, lambda: fired.append(4))
    loop._fire()
    assert fired == [1, 4]
