"""Engine ``qemu``: the same graph as a ``qemu-system-x86_64`` of the host, emulated or on its KVM."""

from __future__ import annotations

import os

from runner.engine import patience
from runner.engine.protocol import Resources
from runner.engine.qemu.arguments import CONTROL, EXIT_PORT, PROGRAM, RESET_LOG, arguments
from runner.engine.qemu.process import Channels, QemuProcess
from runner.engine.qemu.start_fault import refuse_lesser_cpus, start_fault
from runner.graph.model import BootFiles, Graph
from runner.host.process_end import how_it_ended

__all__ = ["QemuEngine", "QemuProcess", "arguments"]

SO_SNDBUFFORCE = 32  # asm-generic/socket.h; Python's socket module lacks the name
CONSOLE_BUFFER = 16 << 20


class QemuEngine:
    """:class:`runner.engine.protocol.Engine`."""

    name = "qemu"

    def __init__(self, program: str = PROGRAM) -> None:
        self._program = program

    def prepare(self, graph: Graph, files: BootFiles) -> None:
        """QEMU is one program: it starts when everything is there."""

    def start(self, graph: Graph, files: BootFiles, resources: Resources) -> QemuProcess:
        """QEMU with the supervisor's descriptors and four of ours, at the guest's first instruction.

        Raises HostError, or DefinitionError for CPUs that no QEMU has.
        """
        from socket import socketpair

        from runner.host.spawn import spawn

        _check_images(graph, resources)
        _widen_consoles(graph, resources)
        control, its_control = socketpair()
        exit_port, its_exit_port = socketpair()
        log_read, log_write = os.pipe2(os.O_CLOEXEC)
        errors_read, errors_write = os.pipe2(os.O_CLOEXEC)
        own = {CONTROL: its_control.fileno(), EXIT_PORT: its_exit_port.fileno(), RESET_LOG: log_write}
        fds = {**resources.fds, **own}
        words = arguments(graph, files, Resources(fds, resources.values), self._program)
        try:
            pid = spawn(
                words, fds.values(), stdout=errors_write, stderr=errors_write, prepare=_place_overlays
            )
        except BaseException:
            control.close()
            exit_port.close()
            os.close(log_read)
            os.close(errors_read)
            raise
        finally:
            its_control.close()
            its_exit_port.close()
            os.close(log_write)
            os.close(errors_write)
        channels = Channels(control, exit_port, log_read, errors_read)
        started = QemuProcess(pid, channels, graph.cpus.affinity, graph.memory.size)
        try:
            said = started.await_start(patience.seconds(graph))
            if said is not None:
                raise start_fault(said, how_it_ended(started.pidfd), graph)
            if graph.cpus.features:
                refuse_lesser_cpus(started.complaints(), graph.cpus)
        except BaseException:
            started.close()
            raise
        return started


def _place_overlays() -> None:
    """In the child: QEMU makes the files of ``snapshot=on`` in TMPDIR, but takes /tmp for /var/tmp."""
    from runner.backends.block import overlay_folder

    os.environ["TMPDIR"] = os.path.join(overlay_folder(), ".")


def _check_images(graph: Graph, resources: Resources) -> None:
    """QEMU opens what a qcow2 image refers to; so no image may refer to anything."""
    for node in graph.nodes:
        for claim in node.claim.backends:
            if claim.kind == "block" and claim.options.get("format") == "qcow2":
                from runner.backends.qcow2_references import refuse_references

                refuse_references(resources.fds[claim.name], claim.name)


def _widen_consoles(graph: Graph, resources: Resources) -> None:
    """QEMU's virtio console drops what its socket does not take at once, so that takes as much as it may."""
    from socket import SO_SNDBUF, SOL_SOCKET, socket

    for node in graph.nodes:
        for claim in node.claim.backends:
            if claim.kind == "char" and claim.name in resources.fds:
                with socket(fileno=os.dup(resources.fds[claim.name])) as line:
                    try:
                        line.setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, CONSOLE_BUFFER)
                    except PermissionError:  # without CAP_NET_ADMIN: up to net.core.wmem_max
                        line.setsockopt(SOL_SOCKET, SO_SNDBUF, CONSOLE_BUFFER)
