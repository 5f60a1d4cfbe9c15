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
SIZE = 3 * 8


def library() -> str:
    """Path of the compiled library."""
    return compiled("native/kvm_calls.c", "kvm_calls.so", "-shared", "-fPIC")


class Watch:
    """Starts programs with the library in front, and reads what it has told."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="vmrun-bench-calls-")  # noqa: SIM115  # goes with us
        self._file.truncate(SIZE)
        self._told = mmap.mmap(self._file.fileno(), SIZE)

    def start(self, words: Sequence[str], *, early: bool = False) -> Program:
        """Start a program; it goes no further than KVM_RUN or, ``early``, than KVM_CREATE_VM."""
        self._told[:] = bytes(SIZE)
        extra = {"LD_PRELOAD": library(), "BENCH_KVM_CALLS": self._file.name}
        if early:
            extra["BENCH_KVM_STOP"] = "create"
        return Program(words, {**os.environ, **extra})

    def times(self, program: Program, seconds: float, *, early: bool = False) -> tuple[float, ...]:
        """Seconds from its start to the first KVM call, KVM_CREATE_VM and, not ``early``, KVM_RUN.

        Raises RunFailed.
        """
        until = program.began + seconds
        while True:
            told = struct.unpack("=QQQ", self._told[:])[: 2 if early else 3]
            if told[-1]:
                return tuple(at / 1e9 - program.began for at in told)
            if time.monotonic() > until or os.waitid(
                os.P_PID, program.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                raise RunFailed(f"{program.words[0]} has not come so far: {program.complaint()[-400:]}")
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
