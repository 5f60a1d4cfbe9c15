"""The graph as QEMU's argument list: a pure function, which the golden files hold still."""

from __future__ import annotations

from runner.engine.protocol import Resources
from runner.engine.qemu.backends import backend_words, char_words
from runner.engine.qemu.machine import cpu_words, machine_words, memory_words
from runner.graph.model import BootFiles, Graph, Node
from runner.graph.qemu_words import escaped
from runner.light import import_module

CONTROL, EXIT_PORT, RESET_LOG = "control", "exit_port", "reset_log"
"""Descriptors that are the engine's own: QMP, the guest's exit status, the log of CPU resets."""

CONFINED = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


PROGRAM = "qemu-system-x86_64"


def arguments(graph: Graph, files: BootFiles, resources: Resources, program: str = PROGRAM) -> list[str]:
    """Everything after and including the program's name.

    ``resources.fds`` has the supervisor's backends and, under :data:`CONTROL`,
    :data:`EXIT_PORT` and :data:`RESET_LOG`, the engine's own two socketpairs and a pipe.
    The machine starts stopped (``-S``), and stays when it has reset or switched itself off,
    so that what it told last can still be read.
    """
    return [
        program,
        "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-S",
        "-name", f"guest={escaped(graph.name)},debug-threads=on",
        "-action", "reboot=shutdown,shutdown=pause,panic=pause,watchdog=pause",
        "-sandbox", CONFINED,
        # The log of CPU resets is the one place where QEMU tells a triple fault from a reset.
        "-d", "cpu_reset", "-D", f"/proc/self/fd/{resources.fds[RESET_LOG]}",
        *machine_words(graph),
        *cpu_words(graph),
        *memory_words(graph.memory),
        *char_words(CONTROL, resources.fds[CONTROL]), "-mon", f"chardev={CONTROL},mode=control",
        *char_words(EXIT_PORT, resources.fds[EXIT_PORT]),
        *backend_words(graph, resources),
        *boot_words(graph, files),
        *(word for node in _bridges_first(graph.nodes) for word in _with_sector(node, graph, resources)),
    ]  # fmt: skip


def boot_words(graph: Graph, files: BootFiles) -> list[str]:
    """``-kernel``, ``-initrd`` and ``-append``."""
    words = ["-kernel", files.kernel]
    if files.initramfs is not None:
        words += ["-initrd", files.initramfs]
    if graph.boot.cmdline:
        words += ["-append", graph.boot.cmdline]
    return words


def _bridges_first(nodes: tuple[Node, ...]) -> list[Node]:
    """A root port has to be there before what sits below it; else as in the graph."""
    return sorted(nodes, key=lambda node: not (node.claim.pci and node.claim.pci.bridge))


def _with_sector(node: Node, graph: Graph, resources: Resources) -> tuple[str, ...]:
    """A disk of the host is shown with its own sectors; QEMU would make them 512 bytes."""
    words = device_words(node, graph)
    facts = resources.values.get(node.claim.backends[0].name) if node.claim.backends else None
    sector = facts.get("sector", 512) if node.kind == "virtio_blk" and isinstance(facts, dict) else 512
    if sector == 512:
        return words
    return (*words[:-1], f"{words[-1]},logical_block_size={sector},physical_block_size={sector}")


def device_words(node: Node, graph: Graph) -> tuple[str, ...]:
    """What the device's own module says; :func:`runner.graph.engines.lacks` has seen to it that it can.

    QEMU wants to be told, at function 0, that its slot will have others.
    """
    words: tuple[str, ...] = import_module(f"runner.devices.{node.kind}").qemu(node)
    function = node.claim.pci
    if function is None or not (function.slot or "").endswith(".0"):
        return words
    slot, addr = str(function.slot)[:-1], f",addr={str(function.slot).rpartition(':')[2]}"
    others = [other.claim.pci for other in graph.nodes if other.claim.pci and other is not node]
    if any(other.bus == function.bus and (other.slot or "").startswith(slot) for other in others):
        words = tuple(f"{word},multifunction=on" if addr in word else word for word in words)
    return words
