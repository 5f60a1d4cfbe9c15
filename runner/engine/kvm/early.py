"""The VM process before there is a plan: it is forked first and imports the engine meanwhile.

While the supervisor reads, checks and opens, the other CPU loads what the guest will need.  A run
that turns out not to want it closes the socket, and the process ends.
"""

from __future__ import annotations

import os

VENDOR_MODULES = ("/sys/module/kvm_intel", "/sys/module/kvm_amd")


class Waiting:
    """A forked VM process that waits for its job on ``control``."""

    def __init__(self, pid: int, control: int) -> None:
        self.pid, self.control = pid, control

    def close(self) -> None:
        """It is not wanted.  Idempotent."""
        if self.pid:
            os.close(self.control)
            os.kill(self.pid, 9)  # it may be busy with memory, and holds nothing that outlives it
            os.waitpid(self.pid, 0)
            self.pid = 0


def likely() -> bool:
    """Whether this host looks as if the kvm engine will run; costs two calls, decides nothing."""
    return any(os.path.exists(module) for module in VENDOR_MODULES)


def fork() -> Waiting:
    """Start the process."""
    from runner.host import unix_socket

    ours, theirs = unix_socket.pair()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            from runner.engine.kvm import process

            process.wait(theirs, parent)
        finally:  # whatever it was: two supervisors must not go on from here
            os._exit(1)
    os.close(theirs)
    os.set_blocking(ours, True)
    return Waiting(pid, ours)
