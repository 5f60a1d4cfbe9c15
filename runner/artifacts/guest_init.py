"""The guest's first process: a shell script for busybox, as short as a boot should be.

Each command that busybox does not have built into its shell costs a fork and an exec, so one
``mount`` mounts all and one ``modprobe`` loads all.  The run's status goes to the machine
through I/O port 0xf4 (:data:`EXIT_PORT`) by way of ``/dev/port`` (mem(4); CONFIG_DEVPORT),
after the file systems are synchronised and the console's output has left the serial port.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from runner.artifacts.modules import Module

EXIT_PORT = 0xF4
"""One byte written here ends the run with that status, on every engine."""

FOLDER = "/.vmrun"
MOUNTS = "proc /proc proc defaults 0 0\nsysfs /sys sysfs defaults 0 0\ndev /dev devtmpfs defaults 0 0\n"
NEEDED_APPLETS = frozenset(
    ("sh", "mount", "modprobe", "dd", "stty", "sync", "printf", "poweroff", "setsid", "cttyhack")
)

_START = f"""\
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -a -T {FOLDER}/mounts
"""

# A console whose driver is a module exists only now; without any console all goes to /dev/null.
_CONSOLE = """\
if true <>/dev/console; then exec <>/dev/console >&0 2>&0; else exec <>/dev/null >&0 2>&0; fi 2>/dev/null
"""

_RUN = f"""\
(. {FOLDER}/run)
status=$?
sync
stty cread 2>/dev/null # waits until the console's output is out (tcsetattr's TCSADRAIN)
printf "\\\\$((status / 64))$((status / 8 % 8))$((status % 8))" >{FOLDER}/status
dd if={FOLDER}/status of=/dev/port bs=1 seek={EXIT_PORT} count=1 2>/dev/null
poweroff -f # reached only where nothing answers at the exit port
"""

_SHELL = """\
setsid cttyhack sh
sync
stty cread 2>/dev/null
poweroff -f
"""


def script(modules: Sequence[Module], library_folders: Sequence[str], run: str | None) -> str:
    """The text of /init.  Modules are loaded as ordered; an optional one may fail without a word."""
    lines = [_START]
    if library_folders:
        lines.append(f"export LD_LIBRARY_PATH={quoted(':'.join(library_folders))}\n")
    for optional, group in groupby(modules, key=lambda module: module.optional):
        names = " ".join(quoted(module.name) for module in group)
        lines.append(f"modprobe -a {names}{' 2>/dev/null' if optional else ''}\n")
    return "".join((*lines, _CONSOLE, _SHELL if run is None else _RUN))


def quoted(word: str) -> str:
    """A word as the shell reads it back."""
    return "'" + word.replace("'", "'\\''") + "'"
