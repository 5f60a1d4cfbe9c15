"""Start a helper program that cannot outlive us.

The child gets its own session (Ctrl-C at the terminal is ours to handle), the null device
as standard input, the descriptors it is given and no others, unblocked default signals,
and a signal when the thread that started it dies (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os

from runner.errors import HostError
from runner.host.native._native import lib
from runner.light import signal
from runner.typed import Callable, Iterable, Sequence

_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGXFSZ)


def spawn(
    arguments: Sequence[str],
    keep: Iterable[int],
    *,
    stdout: int,
    stderr: int,
    death: int = signal.SIGKILL,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Run ``arguments[0]`` (found in PATH); returns the pid, which the caller reaps.

    ``keep`` are the descriptors that stay open in the child under their own numbers;
    ``death`` is the signal that it gets when we die; ``prepare`` runs in the child just
    before the program and raises OSError.
    Raises HostError when the program cannot be started.
    """
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(arguments, keep, (stdout, stderr), (parent, death), report_write, prepare)
    os.close(report_write)
    try:
        failure = os.read(report_read, 32)
    finally:
        os.close(report_read)
    if failure:
        os.waitpid(pid, 0)
        stage, number = failure.split()
        words = os.strerror(int(number))
        if stage == b"prepare":
            raise HostError(f"`{arguments[0]}` cannot be confined as it should be: {words}")
        raise HostError(f"`{arguments[0]}` cannot be started: {words}", hint=f"is {arguments[0]} installed?")
    return pid


def _become(
    arguments: Sequence[str],
    keep: Iterable[int],
    output: tuple[int, int],
    parent: tuple[int, int],
    report: int,
    prepare: Callable[[], None] | None,
) -> None:
    """The child's half; never returns."""
    stage = "start"
    try:
        result = lib.vmrun_die_with_parent(parent[1], parent[0])
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for source, target in ((null, 0), (output[0], 1), (output[1], 2)):
            os.dup2(source, target)
        for fd in keep:
            os.set_inheritable(fd, True)
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if prepare is not None:
            stage = "prepare"
            prepare()
        stage = "start"
        os.execvp(arguments[0], list(arguments))  # noqa: S606  # no shell is the point
    except OSError as error:
        os.write(report, f"{stage} {error.errno or 0}".encode())
    finally:
        os._exit(127)
