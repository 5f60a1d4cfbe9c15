"""NS16550A serial port: COM1, ports 0x3f8-0x3ff, IRQ 4.  Its registers are runner/host/native/uart.c."""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import SerialAttachment, SerialPort
from runner.graph.model import BackendClaim, Claim, IrqClaim, Node, PortClaim
from runner.typed import Mapping
from runner.wire import aml, resources

COM1 = 0x3F8
COM1_IRQ = 4


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Eight ports, one edge-triggered line, one character backend of the port's own name."""
    return Claim(
        ports=(PortClaim(8, COM1, "uart"),),
        irqs=(IrqClaim(COM1_IRQ, "edge", "high", "uart"),),
        backends=(BackendClaim(name, "char", options),),
    )


def build(node: Node, at: SerialAttachment) -> SerialPort:
    """The port, joined to its backend; the engine's own code serves it (decision 0107)."""
    return at.serial_port(node.claim.backends[0].name)


def qemu(node: Node) -> tuple[str, ...]:
    """``-device isa-serial`` at the same ports and line."""
    port, irq = node.claim.ports[0], node.claim.irqs[0]
    words = f"isa-serial,iobase={port.at:#x},irq={irq.line},chardev={node.claim.backends[0].name}"
    return ("-device", words)


def acpi(node: Node) -> tuple[aml.Term, ...]:
    """Device COM1: PNP0501, a 16550A."""
    port, irq = node.claim.ports[0], node.claim.irqs[0]
    used = resources.template(resources.io(port.at or COM1, port.size), resources.irq(irq.line or COM1_IRQ))
    return (
        aml.device(
            "COM1", aml.name("_HID", aml.eisa_id("PNP0501")), aml.name("_UID", 1), aml.name("_CRS", used)
        ),
    )
