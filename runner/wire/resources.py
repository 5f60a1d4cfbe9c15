"""Resource descriptors: which ports, lines and address ranges a device uses or passes on.

Source: ACPI 6.4, section 6.4.  A bridge's windows are *producers* with both ends fixed;
everything else consumes.  Ends are inclusive, sizes in bytes.
"""

from __future__ import annotations

import struct

from runner.typed import NewType
from runner.wire.aml import Term, buffer

Descriptor = NewType("Descriptor", bytes)
"""One encoded resource descriptor."""

_MEMORY, _IO, _BUS = 0, 1, 2
_PRODUCER_FIXED = 0x0C  # producer, positive decode, minimum and maximum fixed
_READ_WRITE = 0x01
_ENTIRE_RANGE = 0x03
_END_TAG = b"\x79\x00"  # checksum 0: not used


def template(*descriptors: Descriptor) -> Term:
    """ResourceTemplate () {…}: the buffer that a _CRS is."""
    return buffer(b"".join(descriptors) + _END_TAG)


def io(base: int, size: int) -> Descriptor:
    """IO (Decode16, …): fixed ports (6.4.2.5)."""
    return Descriptor(struct.pack("<BBHHBB", 0x47, 1, base, base, 1, size))


def irq(line: int, *, level: bool = False, low: bool = False, shared: bool = False) -> Descriptor:
    """IRQ or IRQNoFlags: one of the ISA lines 0-15 (6.4.2.1)."""
    mask = 1 << range(16)[line]
    if not (level or low or shared):
        return Descriptor(struct.pack("<BH", 0x22, mask))
    return Descriptor(struct.pack("<BHB", 0x23, mask, (not level) | low << 3 | shared << 4))


def memory32_fixed(base: int, size: int, *, writable: bool = True) -> Descriptor:
    """Memory32Fixed (6.4.3.4)."""
    return Descriptor(struct.pack("<BHBII", 0x86, 9, writable, base, size))


def word_bus(first: int, last: int) -> Descriptor:
    """WordBusNumber window of a host bridge (6.4.3.5.3)."""
    return _window(0x88, "<HHHHH", _BUS, 0, first, last)


def word_io(first: int, last: int) -> Descriptor:
    """WordIO window of a bridge, its entire range."""
    return _window(0x88, "<HHHHH", _IO, _ENTIRE_RANGE, first, last)


def dword_memory(first: int, last: int) -> Descriptor:
    """DWordMemory window below 4 GiB, not cacheable, read and write (6.4.3.5.2)."""
    return _window(0x87, "<IIIII", _MEMORY, _READ_WRITE, first, last)


def qword_memory(first: int, last: int) -> Descriptor:
    """QWordMemory window anywhere, not cacheable, read and write (6.4.3.5.1)."""
    return _window(0x8A, "<QQQQQ", _MEMORY, _READ_WRITE, first, last)


def _window(tag: int, form: str, space: int, specific: int, first: int, last: int) -> Descriptor:
    """granularity 0 and translation 0: the bridge passes addresses on as they are."""
    if last < first:
        raise ValueError(f"the window {first:#x}-{last:#x} is empty")
    size = 3 + struct.calcsize(form)
    head = struct.pack("<BHBBB", tag, size, space, _PRODUCER_FIXED, specific)
    return Descriptor(head + struct.pack(form, 0, first, last, 0, last - first + 1))
