"""The script that runs in the lab is a shell script that busybox can read."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.lab.machine import CHECKOUT

SCRIPT = CHECKOUT / "tests/lab/enter.sh"


@pytest.mark.parametrize("shell", [("busybox", "sh"), ("sh",)])
def test_the_script_has_no_syntax_error(shell):
    subprocess.run([*shell, "-n", SCRIPT], check=True)


def test_every_program_it_calls_is_an_applet_of_busybox():
    """Before the host's file system is there, nothing else is."""
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    called = {"mount", "mkdir", "ln", "uname", "cat", "ip", "hostname", "stty", "chroot"}
    text = SCRIPT.read_text()
    assert called <= set(applets)
    assert all(f"{name} " in text for name in called)
    assert shutil.which("setsid"), "taken from the host's own"
