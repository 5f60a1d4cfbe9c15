"""A lab that cannot be had is a failure of each test that needs it, never a skip."""

from __future__ import annotations

import os
import subprocess
import sys


def test_without_a_lab_its_tests_fail_and_say_why():
    """The lab's definition is for QEMU; told to use the other engine, it cannot start."""
    words = [sys.executable, "-m", "pytest", "tests/guest/test_bridge.py"]
    environment = {**os.environ, "VMRUN_LAB_OPTIONS": "--engine kvm", "VMRUN_LAB_ALWAYS": "1"}
    environment.pop("VMRUN_IN_LAB", None)
    told = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert told.returncode == 1, told.stdout
    assert "1 failed" in told.stdout
    assert "the lab ended early" in told.stdout
    assert "kvm" in told.stdout
