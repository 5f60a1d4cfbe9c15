"""How names and places of the graph are spelled on QEMU's command line.

Used by each device's ``qemu(node)`` and by :mod:`runner.engine.qemu`, so that what one
declares the other one finds.
"""

from __future__ import annotations

from runner.graph.model import Node

ROOT_BUS = "pcie.0"


def identifier(name: str) -> str:
    """A backend's or device's name as a QEMU id: letters, digits, ``-``, ``.`` and ``_``, a letter first."""
    spelled = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in name)
    return spelled if spelled[:1].isalpha() else "x" + spelled


def escaped(value: str) -> str:
    """A value inside a comma-separated option: QEMU wants its commas doubled."""
    return value.replace(",", ",,")


def device_id(node: Node) -> str:
    """The id of a node's device: ``disks.root``; the bare name for what there is one of."""
    return identifier(node.name if node.section in ("", node.name) else f"{node.section}.{node.name}")


def backend_id(node: Node, index: int = 0) -> str:
    """The id under which the engine declares the node's backend ``index``."""
    return identifier(node.claim.backends[index].name)


def bus_of(node: Node) -> str:
    """The PCI bus a function sits on: the root bus, or that of its root port."""
    above = node.claim.pci.bus if node.claim.pci else ""
    return identifier(f"devices.{above}") if above else ROOT_BUS


def place(node: Node) -> str:
    """``id=…,bus=…,addr=…`` of a PCI function; ``id=…`` of any other device.

    A slot is ``"00:05.0"`` in the guest; below a root port only device and function are taken
    from it, since the bus number is the guest's to give.
    """
    words = f"id={device_id(node)}"
    function = node.claim.pci
    if function is None:
        return words
    words += f",bus={bus_of(node)}"
    if function.slot is not None:
        words += f",addr={function.slot.rpartition(':')[2]}"
    return words
