"""What a function's configuration space says of it.

The bytes are the ``config`` file of sysfs, of which an ordinary user sees 64 and root 256 or
4096.  Each four of them are a transaction on the bus (under a hypervisor an exit), so only
the capabilities' heads are read.  The lists come from hardware and can be circular or point
anywhere: a walk visits an offset once.  (PCI 3.0, 6.1, 6.7, 6.8; PCIe 4.0, 7.6.3, 7.9.3.)
"""

from __future__ import annotations

from runner.typed import Callable, Iterator, NamedTuple

ReadAt = Callable[[int, int], bytes]
"""(offset, length) to bytes; fewer than asked for where the space ends."""

HEADER_BYTES = 64
STATUS = 0x06
STATUS_CAPABILITY_LIST = 0x10
HEADER_TYPE = 0x0E
CAPABILITY_POINTER = 0x34
INTERRUPT_PIN = 0x3D
EXTENDED_START = 0x100
EXTENDED_END = 0x1000

CAP_MSI = 0x05
CAP_EXPRESS = 0x10
CAP_MSIX = 0x11
EXT_CAP_SERIAL = 0x0003


class ConfigFacts(NamedTuple):
    """The part of the configuration space that a plan needs."""

    header_type: int = 0  # 0 endpoint, 1 bridge, 2 CardBus
    intx_pin: int = 0
    msi_vectors: int = 0
    msix_vectors: int = 0
    serial: str = ""  # sixteen hex digits in pairs, as lspci prints it
    whole: bool = True  # False: there are capabilities, and this user does not see them


def parse_config(read: ReadAt) -> ConfigFacts:
    """Facts from a configuration space; what cannot be read is not known, and 0 or ""."""
    header = read(0, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return ConfigFacts()
    msi = msix = 0
    serial = ""
    whole = not _has_list(header)
    for identity, control in capabilities(header, read):
        whole = True
        if identity == CAP_MSI:
            msi = 1 << min((control >> 1) & 7, 5)
        elif identity == CAP_MSIX:
            msix = (control & 0x7FF) + 1
        elif identity == CAP_EXPRESS:
            serial = _serial(read)
    pin = header[INTERRUPT_PIN]
    return ConfigFacts(header[HEADER_TYPE] & 0x7F, pin if pin <= 4 else 0, msi, msix, serial, whole)


def capabilities(header: bytes, read: ReadAt) -> Iterator[tuple[int, int]]:
    """(capability id, its 16-bit control word) of each capability below 256."""
    if not _has_list(header):
        return
    seen: set[int] = set()
    at = header[CAPABILITY_POINTER] & 0xFC
    while at >= HEADER_BYTES and at not in seen:
        seen.add(at)
        head = read(at, 4)
        if len(head) < 4:
            return
        yield head[0], head[2] | head[3] << 8
        at = head[1] & 0xFC


def _has_list(header: bytes) -> bool:
    return bool(header[STATUS] & STATUS_CAPABILITY_LIST) and header[CAPABILITY_POINTER] >= HEADER_BYTES


def extended_capabilities(read: ReadAt) -> Iterator[tuple[int, int]]:
    """(capability id, offset) of each PCI Express extended capability."""
    seen: set[int] = set()
    at = EXTENDED_START
    while EXTENDED_START <= at < EXTENDED_END and at not in seen:
        seen.add(at)
        head = int.from_bytes(read(at, 4), "little")
        if head in (0, 0xFFFFFFFF):
            return
        yield head & 0xFFFF, at
        at = (head >> 20) & 0xFFC


def _serial(read: ReadAt) -> str:
    for identity, at in extended_capabilities(read):
        if identity == EXT_CAP_SERIAL:
            number = read(at + 4, 8)
            return number[::-1].hex("-") if len(number) == 8 else ""
    return ""
