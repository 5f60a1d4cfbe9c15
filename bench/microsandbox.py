"""microsandbox as a peer: its own kernel and agent, a folder as the root file system, one program run in it.

Its wheel (PyPI) brings the monitor and the kernel (libkrun), so it is at hand where the bench's packages
are.  It keeps a user's attributes (xattr(7)) on what the guest sees, so its home and the folder are on a
file system that has them: tmpfs before Linux 6.6, which a lab's files are on, has none.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import subprocess

from bench.machines import Guest
from bench.process import RunFailed

PROGRAM = "msb"
HOME = "MSB_HOME"
IMAGE_BYTES = 300 << 20
APPLETS = ("sh", "echo")


def words(guest: Guest, folder: str) -> list[str]:
    """The command line that does the first line of ``guest.run`` in a sandbox.  Raises RunFailed.

    What a program says is handed on when that has ended, so it must not go to sleep after it.
    """
    program, home = _ready(folder)
    os.environ[HOME] = home
    first = guest.run.splitlines()[0]
    return [
        program, "run", "--quiet", "--no-tty", "--no-stdin", "--no-net", "--pull", "never",
        "-c", "1", "-m", f"{guest.memory_mib}M",
        os.path.join(home, "rootfs"), "--", "/bin/sh", "-c", first,
    ]  # fmt: skip


@functools.cache
def _ready(folder: str) -> tuple[str, str]:
    """The monitor and its home, once for all runs."""
    home = _with_attributes(os.path.join(folder, "microsandbox"))
    _make_root(os.path.join(home, "rootfs"))
    return _program(folder), home


def _program(folder: str) -> str:
    """Of the wheel, copied to where this machine's own files are; else what is in PATH."""
    spec = importlib.util.find_spec("microsandbox")
    places = spec.submodule_search_locations if spec else None
    bundled = os.path.join(places[0], "_bundled") if places else ""
    if not os.path.isdir(bundled):
        return PROGRAM
    copy = shutil.copytree(bundled, os.path.join(folder, "microsandbox-program"))
    program = os.path.join(copy, "bin", PROGRAM)
    os.chmod(program, 0o755)
    return program


def _make_root(root: str) -> None:
    """Only what a shell needs: the busybox that the other guests have, and a user."""
    from runner.artifacts import busybox
    from runner.artifacts.cache import Cache

    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        os.makedirs(os.path.join(root, name))
    shutil.copy2(busybox.find(None, Cache(), lambda _: None), os.path.join(root, "bin", "busybox"))
    for name in APPLETS:
        os.symlink("busybox", os.path.join(root, "bin", name))
    for name, line in (("passwd", "root:x:0:0:root:/root:/bin/sh"), ("group", "root:x:0:")):
        with open(os.path.join(root, "etc", name), "w") as file:
            file.write(f"{line}\n")


def _with_attributes(folder: str) -> str:
    """``folder``, made; an ext4 of its own is mounted there if its file system has no attributes of users."""
    os.makedirs(folder)
    try:
        os.setxattr(folder, "user.vmrun", b"")
    except OSError:
        image = f"{folder}.ext4"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        _run("mke2fs", "-q", "-t", "ext4", image)
        subprocess.run(["modprobe", "-qa", "loop", "ext4"], check=False)
        _run("mount", "-o", "loop", image, folder)
        atexit.register(subprocess.run, ["umount", "-l", folder], check=False)
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = f"{' '.join(command)}: {done.stderr.strip()}"
        raise RunFailed(f"microsandbox needs a file system with attributes: {why}")
