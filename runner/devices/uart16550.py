"""NS16550A serial port: COM1, ports 0x3f8-0x3ff, IRQ 4.

After the National Semiconductor PC16550D data sheet (the section numbers below are its).
The line itself takes no time: a byte that is written has left at once, so THRE and TEMT
always read as set.  Both ways run through rings of fixed size (device-bugs 16): output
that nobody takes is dropped, oldest first, and never holds up the virtual CPU; input that
does not fit stays with the sender, who is told by ``on_room`` when to offer it again.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.devices.ports import Attachment, CharSink, Clock, Effect, EventLoop, IrqLine, RegisterDevice
from runner.graph.model import BackendClaim, Claim, IrqClaim, Node, PortClaim
from runner.typed import Callable, Mapping
from runner.wire import aml, resources

COM1 = 0x3F8
COM1_IRQ = 4
FIFO_SIZE = 16
INPUT_RING = 1024  # what waits behind the FIFO, so that a paste is no ping-pong of 16 bytes
OUTPUT_RING = 65536
BURST = 64  # bytes that are collected before the sink is called without a newline
LINGER_NS = 10_000_000  # a prompt without a newline is shown after this

IER_RX, IER_THRE, IER_LINE, IER_MODEM = 0x01, 0x02, 0x04, 0x08
IIR_NONE, IIR_MODEM, IIR_THRE, IIR_RX, IIR_LINE, IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR_RX = 0x01, 0x02
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
LSR_DATA, LSR_OVERRUN, LSR_EMPTY = 0x01, 0x02, 0x60
MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
TRIGGER = (1, 4, 8, 14)  # FCR bits 6-7, section 8.5


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Eight ports, one edge-triggered line, one character backend of the port's own name."""
    return Claim(
        ports=(PortClaim(8, COM1, "uart"),),
        irqs=(IrqClaim(COM1_IRQ, "edge", "high", "uart"),),
        backends=(BackendClaim(name, "char", options),),
    )


def build(node: Node, at: Attachment) -> Uart16550:
    """The port, writing to its backend and flushing what lingers on the device thread."""
    sink: CharSink = at.backend(node.claim.backends[0].name)
    return Uart16550(at.irq(0), sink, at.loop, at.clock)


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


class Uart16550:
    """One port: ``read`` and ``write`` by the guest, ``feed`` and ``flush`` by the host."""

    def __init__(self, irq: IrqLine, sink: CharSink, loop: EventLoop, clock: Clock) -> None:
        self.ranges: tuple[RegisterDevice, ...] = (self,)
        self.on_room: Callable[[], None] | None = None  # the input ring has run empty
        self.on_steady: Callable[[int, int | None], None] | None = None
        """Told that a register reads as this value, without an effect, until told otherwise (None)."""
        self.dropped = 0  # output bytes that nobody took
        self._irq, self._sink, self._loop, self._clock = irq, sink, loop, clock
        self._input = bytearray()
        self._output = bytearray()
        self._flush_planned = False
        self._stalled = False  # the sink took less than it was offered
        self._asserted = False
        self._ier = self._lcr = self._mcr = self._scratch = 0
        self._divisor = 12  # 9600 baud
        self._fifo = False
        self._trigger = 1
        self._overrun = False
        self._thre_pending = False
        self._msr = MSR_CONNECTED
        self._msr_delta = 0
        self._steady: tuple[int | None, int | None] = (None, None)

    # Guest side

    def read(self, offset: int, size: int) -> int:
        """One register; the device is eight bits wide, wider reads float."""
        if size != 1:
            return (1 << 8 * size) - 1
        dlab = self._lcr & LCR_DLAB
        match offset:
            case 0:
                return self._divisor & 0xFF if dlab else self._take_input()
            case 1:
                return self._divisor >> 8 if dlab else self._ier
            case 2:
                return self._read_iir()
            case 3:
                return self._lcr
            case 4:
                return self._mcr
            case 5:
                return self._read_lsr()
            case 6:
                return self._read_msr()
            case 7:
                return self._scratch
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> Effect | None:
        """One register; wider writes reach nobody."""
        if size != 1:
            return None
        value &= 0xFF
        dlab = self._lcr & LCR_DLAB
        match offset:
            case 0 if dlab:
                self._divisor = self._divisor & 0xFF00 | value
            case 0:
                self._transmit(bytes((value,)))
            case 1 if dlab:
                self._divisor = self._divisor & 0x00FF | value << 8
            case 1:
                self._write_ier(value)
            case 2:
                self._write_fcr(value)
            case 3:
                self._lcr = value
            case 4:
                self._write_mcr(value)
            case 7:
                self._scratch = value
        return None

    def write_burst(self, data: bytes) -> None:
        """Several one-byte writes to offset 0 at once, as a coalesced-I/O ring delivers them."""
        if self._lcr & LCR_DLAB:
            self.write(0, 1, data[-1] if data else self._divisor & 0xFF)
        elif data:
            self._transmit(data)

    # Host side

    def feed(self, data: bytes) -> int:
        """Input from the line: how many bytes were taken; the rest stays with the caller."""
        taken = data[: self.room]
        self._input += taken
        if taken:
            self._update_irq()
        return len(taken)

    @property
    def room(self) -> int:
        """How many bytes :meth:`feed` would take now; in loopback the line is cut off."""
        return 0 if self._mcr & MCR_LOOP else max(0, INPUT_RING - len(self._input))

    def flush(self) -> None:
        """Hand collected output to the sink; what it does not take waits for the next time."""
        if self._output:
            del self._output[: self._sink.write(bytes(self._output))]
        self._stalled = bool(self._output)
        if self._stalled:
            self._plan_flush()

    # Registers

    def _take_input(self) -> int:
        if not self._input:
            return 0
        value = self._input.pop(0)
        self._update_irq()
        self._tell_room()
        return value

    def _tell_room(self) -> None:
        if not self._input and self.on_room is not None:
            self.on_room()

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == IIR_THRE:  # section 8.6.1: reading IIR withdraws a THRE interrupt that it shows
            self._thre_pending = False
            self._update_irq()
        return cause | (IIR_FIFO if self._fifo else 0)

    def _read_lsr(self) -> int:
        value = LSR_EMPTY | (LSR_DATA if self._input else 0) | (LSR_OVERRUN if self._overrun else 0)
        if self._overrun:
            self._overrun = False
            self._update_irq()
        return value

    def _read_msr(self) -> int:
        value = self._msr | self._msr_delta
        if self._msr_delta:
            self._msr_delta = 0
            self._update_irq()
        return value

    def _write_ier(self, value: int) -> None:
        if value & ~self._ier & IER_THRE:
            self._thre_pending = True  # the transmitter is empty, and switching on says so
        self._ier = value & 0x0F
        self._update_irq()

    def _write_fcr(self, value: int) -> None:
        fifo = bool(value & FCR_ENABLE)
        cleared = fifo != self._fifo or value & FCR_CLEAR_RX  # section 8.5: toggling bit 0 clears too
        if cleared:
            del self._input[: FIFO_SIZE if self._fifo else 1]
        self._fifo = fifo
        self._trigger = TRIGGER[value >> 6] if fifo else 1
        self._update_irq()
        if cleared:
            self._tell_room()

    def _write_mcr(self, value: int) -> None:
        was_looped = self._mcr & MCR_LOOP
        self._mcr = value & 0x1F
        looped = self._mcr & MCR_LOOP
        self._set_modem_lines(_looped_lines(self._mcr) if looped else MSR_CONNECTED)
        if was_looped and not looped:
            self._tell_room()

    def _set_modem_lines(self, lines: int) -> None:
        changed = lines ^ self._msr
        changed &= ~(lines & MSR_RI)  # section 8.8: only the trailing edge of RI counts
        self._msr = lines
        self._msr_delta |= changed >> 4
        self._update_irq()

    # Lines

    def _transmit(self, data: bytes) -> None:
        if self._mcr & MCR_LOOP:
            self._receive_looped(data)
        else:
            self._collect(data)
        self._thre_pending = True
        self._update_irq()

    def _receive_looped(self, data: bytes) -> None:
        """Section 8.7, bit 4: the transmitter's bytes come back; a full FIFO overruns."""
        room = (FIFO_SIZE if self._fifo else 1) - len(self._input)
        self._input += data[: max(0, room)]
        self._overrun |= len(data) > room

    def _collect(self, data: bytes) -> None:
        self._output += data
        excess = len(self._output) - OUTPUT_RING
        if excess > 0:  # the oldest goes: the last words of a guest are worth more
            del self._output[:excess]
            self.dropped += excess
        if not self._stalled and (b"\n" in data or len(self._output) >= BURST):
            self.flush()
        else:  # a slow reader is tried again by the timer, not by every byte of the guest
            self._plan_flush()

    def _plan_flush(self) -> None:
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_at(self._clock.monotonic_ns() + LINGER_NS, self._linger)

    def _linger(self) -> None:
        self._flush_planned = False
        self.flush()

    def _cause(self) -> int:
        """The interrupt with the highest priority (section 8.6, table)."""
        if self._ier & IER_LINE and self._overrun:
            return IIR_LINE
        if self._ier & IER_RX and self._input:
            return IIR_RX if len(self._input) >= self._trigger else IIR_TIMEOUT
        if self._ier & IER_THRE and self._thre_pending:
            return IIR_THRE
        if self._ier & IER_MODEM and self._msr_delta:
            return IIR_MODEM
        return IIR_NONE

    def _update_irq(self) -> None:
        """A PC's interrupt line is gated by OUT2, which loopback forces off (section 8.7)."""
        gate = self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        asserted = gate and self._cause() != IIR_NONE
        if asserted != self._asserted:
            self._asserted = asserted
            self._irq.set(asserted)
        if self.on_steady is not None:
            self._tell_steady(self.on_steady)

    def _tell_steady(self, tell: Callable[[int, int | None], None]) -> None:
        """A driver reads the line's status before every byte, and both at every interrupt."""
        line = None if self._overrun else LSR_EMPTY | (LSR_DATA if self._input else 0)
        modem = None if self._msr_delta else self._msr
        if (line, modem) != self._steady:
            self._steady = (line, modem)
            tell(5, line)
            tell(6, modem)


def _looped_lines(mcr: int) -> int:
    """The four outputs on the four inputs: DTR on DSR, RTS on CTS, OUT1 on RI, OUT2 on DCD."""
    return (
        (MSR_DSR if mcr & MCR_DTR else 0)
        | (MSR_CTS if mcr & MCR_RTS else 0)
        | (MSR_RI if mcr & MCR_OUT1 else 0)
        | (MSR_DCD if mcr & MCR_OUT2 else 0)
    )
