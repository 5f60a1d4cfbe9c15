"""How long a disk's queue looks at its ring before it sleeps (decision 0089)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from runner.host.native._native import ffi, lib
from tests.unit.test_native_disk import Disk

MOST = 1_000_000
LATE = 10 * MOST
READ = 0
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30  # linux/prctl.h


def opened(most=MOST, now=0):
    spin = ffi.new("struct vmrun_spin *")
    lib.vmrun_spin_open(spin, most, now)
    return spin


def test_it_looks_for_as_long_as_the_window_is():
    spin = opened()
    assert lib.vmrun_spin_more(spin, MOST - 1)
    assert not lib.vmrun_spin_more(spin, MOST)


def test_looking_in_vain_closes_the_window():
    spin = opened()
    now, windows = 0, []
    for _ in range(10):
        now += LATE
        lib.vmrun_spin_woken(spin, now)
        windows.append(spin.window_ns)
    assert windows[0] == MOST // 2
    assert sorted(windows, reverse=True) == windows
    assert windows[-1] == 0
    assert not lib.vmrun_spin_more(spin, now)


def test_a_request_that_came_soon_after_opens_it():
    spin = opened()
    for number in range(1, 11):
        lib.vmrun_spin_woken(spin, number * LATE)
    lib.vmrun_spin_woken(spin, 10 * LATE + MOST - 1)
    assert spin.window_ns == MOST


def test_a_window_is_some_wake_ups_and_never_long():
    assert 1_000 < lib.vmrun_spin_most() <= 2_000_000


def test_where_there_is_one_cpu_nobody_looks():
    found = []

    def on_one_cpu():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        found.append(lib.vmrun_spin_most())

    thread = threading.Thread(target=on_one_cpu)
    thread.start()
    thread.join()
    assert found == [0]


def test_a_measurement_leaves_the_threads_timers_as_they_were():
    """In a process of its own: it measures once."""
    words = (
        "import ctypes; from runner.host.native._native import lib; prctl = ctypes.CDLL(None).prctl;"
        f"prctl({PR_SET_TIMERSLACK}, 12345); lib.vmrun_spin_most(); print(prctl({PR_GET_TIMERSLACK}))"
    )
    assert subprocess.check_output([sys.executable, "-c", words]) == b"12345\n"


def test_a_disk_that_is_asked_now_and_then_stops_looking(tmp_path):
    disk = Disk(tmp_path / "image")
    try:
        disk.start()
        spin = disk.queues._blks[0].spin
        for _ in range(14):
            time.sleep(0.01)
            assert disk.request(READ, 0, room=512) == 0
        assert spin.window_ns == 0
    finally:
        disk.close()
