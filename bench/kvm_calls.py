"""When a program first speaks to KVM: told by a library that is preloaded (native/kvm_calls.c)."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence

from bench.native import compiled
from bench.process import Program, RunFailed

CLONE_NEWNS = 0x20000
MODULES = "/sys/module"


def library() -> str:
    """Path of the compiled library."""
    return compiled("native/kvm_calls.c", "kvm_calls.so", "-shared", "-fPIC")


class Watch:
    """Starts programs with the library in front, and reads what it has told."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="vmrun-bench-calls-")  # noqa: SIM115  # goes with us
        self._file.truncate(16)
        self._told = mmap.mmap(self._file.fileno(), 16)

    def start(self, words: Sequence[str]) -> Program:
        """Start a program."""
        self._told[:] = bytes(16)
        extra = {"LD_PRELOAD": library(), "BENCH_KVM_CALLS": self._file.name}
        return Program(words, {**os.environ, **extra})

    def times(self, program: Program, seconds: float) -> tuple[float, float]:
        """Seconds from its start to the first KVM call and to KVM_CREATE_VM.  Raises RunFailed."""
        until = program.began + seconds
        while True:
            first, created = struct.unpack("=QQ", self._told[:])
            if created:
                return first / 1e9 - program.began, created / 1e9 - program.began
            if time.monotonic() > until or os.waitid(
                os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                raise RunFailed(f"{program.words[0]} has made no VM: {program.complaint()[-400:]}")
            time.sleep(0.0005)


def pretend_stock_kvm() -> None:
    """Show this process and its children a host whose KVM runs stock kernels.

    vmrun looks at the vendor module before it makes a VM; where that is one that cannot run a
    stock kernel, the way to KVM_CREATE_VM is measured with another name of it, in a mount
    namespace of this process.  Raises RunFailed where that is not allowed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise RunFailed(f"no mount namespace for the measurement: {os.strerror(ctypes.get_errno())}")
    for words in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "tmpfs", MODULES]):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunFailed(done.stderr.strip())
    for name in ("kvm", "kvm_amd"):
        os.mkdir(os.path.join(MODULES, name))
