"""Refusals of a real host: no driver is changed, one message says what stands against it and what to do."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.host.survey import survey
from tests.vfio.passing import CHECKOUT, DEVICES, DISK, PAIR, READER, bindings, command, define

pytestmark = pytest.mark.vfio

DEVICE = """
[devices.it]
driver = "vfio"
host = "{address}"
allow_no_reset = {allowed}
"""
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14


def refused(tmp_path: Path, address: str, *, allowed: bool = True, prepare: Callable[[], None] = int) -> str:
    """What a run says that is refused, after having seen that no driver was changed."""
    everything = sorted(path.name for path in DEVICES.iterdir())
    before = bindings(*everything)
    file = define(tmp_path, DEVICE.format(address=address, allowed=str(allowed).lower()))
    done = subprocess.run(
        command(file, "--engine", "kvm"), cwd=CHECKOUT, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, preexec_fn=prepare, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert "is lent" not in done.stderr
    assert bindings(*everything) == before
    assert done.stderr.count("error:") == 1
    return done.stderr


def test_a_group_with_a_foreign_member(tmp_path: Path) -> None:
    """The member, its driver, and both ways out."""
    usb, disk = PAIR
    said = refused(tmp_path, usb)
    assert f"{usb} shares IOMMU group" in said
    assert f"{disk} 1b36:0010 (nvme)" in said
    assert f"vmrun host bind {disk}, or make it a device of this machine too" in said


def test_what_holds_the_root(tmp_path: Path) -> None:
    """The function behind the file system that everything here is read from."""
    root = next(one for one in survey(qemu_version=False).pci if any("mount" in use for use in one.uses))
    assert f"the host lives on {root.address}" in refused(tmp_path, root.address)


def test_a_device_without_a_reset(tmp_path: Path) -> None:
    said = refused(tmp_path, READER, allowed=False)
    assert f"{READER} 1b36:0007 (sdhci-pci) offers no reset" in said
    assert "[devices.it] allow_no_reset = true allows it" in said


def test_too_little_memory_may_be_locked(tmp_path: Path) -> None:
    """64 KiB and no CAP_IPC_LOCK, against 512 MiB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (64 << 10, 64 << 10))
        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0):
            os._exit(1)

    said = refused(tmp_path, DISK, prepare=limit)
    assert "512 MiB, and this user may lock 64 KiB (RLIMIT_MEMLOCK)" in said
    assert "ulimit -l 524288 " in said
