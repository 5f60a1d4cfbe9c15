"""``vmrun -d``: the command returns when the guest has started, and the run goes on without a terminal."""

from __future__ import annotations

import os

from runner.cli import log
from runner.host.signals import Interrupted
from runner.typed import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from runner.host.signals import Signals
    from runner.supervisor.record import Run

STARTED = b"s"


def detach(record: Run, execute: Callable[[], int], signals: Signals) -> int:
    """Run ``execute`` in a session of its own; 0 once its guest has started, else its status."""
    heard, say = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(heard)
        _child(record, execute, signals, say)
    os.close(say)
    try:
        started = os.read(heard, 256)
    except Interrupted as interrupted:
        os.kill(pid, interrupted.number)
        os.waitpid(pid, 0)
        raise
    if started.startswith(STARTED):
        name = started[1:].decode()
        log.tell("info", f"{name} runs in the background (process {pid})")
        log.tell("hint", f"vmrun attach {name}, vmrun logs {name}, vmrun stop {name}")
        return 0
    _, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status)


def _child(record: Run, execute: Callable[[], int], signals: Signals, say: int) -> None:
    """The run itself; never returns."""
    status = 70
    try:
        os.setsid()
        signals.nudge()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        record.on_started = lambda: _started(record, say)
        status = execute()
    except Exception as error:
        from runner.cli.failure import told

        status = told(error)
    except Interrupted as interrupted:
        status = 128 + interrupted.number
    finally:
        os._exit(status)


def _started(record: Run, say: int) -> None:
    """From here nobody waits for us, and our words go to a file."""
    assert record.log_folder is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    file = os.open(os.path.join(record.log_folder, "vmrun.log"), flags, 0o600)
    os.dup2(file, 2)
    os.close(file)
    os.write(say, STARTED + record.name.encode())
    os.close(say)
