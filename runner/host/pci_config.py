"""What a function's configuration space says of it, read once and believed never.

The bytes are the ``config`` file of sysfs: 64 for an ordinary user, 256 or 4096 for root.
Capability lists come from hardware and can be circular or point anywhere, so each walk
visits an offset once and stays inside the bytes.  (PCI 3.0, 6.1 and 6.7; PCIe 4.0, 7.6.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

STATUS = 0x06
STATUS_CAPABILITY_LIST = 0x10
HEADER_TYPE = 0x0E
CAPABILITY_POINTER = 0x34
INTERRUPT_PIN = 0x3D
EXTENDED_START = 0x100

CAP_MSI = 0x05
CAP_MSIX = 0x11
EXT_CAP_SERIAL = 0x0003


class ConfigFacts(NamedTuple):
    """The part of the configuration space that a plan needs."""

    header_type: int = 0  # 0 endpoint, 1 bridge, 2 CardBus
    intx_pin: int = 0
    msi_vectors: int = 0
    msix_vectors: int = 0
    serial: str = ""  # sixteen hex digits in pairs, as lspci prints it


def parse_config(config: bytes) -> ConfigFacts:
    """Facts from 0 to 4096 bytes of configuration space; missing bytes are missing facts."""
    if len(config) < 64:
        return ConfigFacts()
    msi = msix = 0
    for identity, at in capabilities(config):
        control = int.from_bytes(config[at + 2 : at + 4], "little")
        if identity == CAP_MSI:
            msi = 1 << min((control >> 1) & 7, 5)
        elif identity == CAP_MSIX:
            msix = (control & 0x7FF) + 1
    pin = config[INTERRUPT_PIN]
    return ConfigFacts(
        header_type=config[HEADER_TYPE] & 0x7F,
        intx_pin=pin if pin <= 4 else 0,
        msi_vectors=msi,
        msix_vectors=msix,
        serial=_serial(config),
    )


def capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """(capability id, offset) of each capability below 256."""
    if len(config) < 256 or not config[STATUS] & STATUS_CAPABILITY_LIST:
        return
    seen: set[int] = set()
    at = config[CAPABILITY_POINTER] & 0xFC
    while 0x40 <= at <= 0xFC and at not in seen:
        seen.add(at)
        yield config[at], at
        at = config[at + 1] & 0xFC


def extended_capabilities(config: bytes) -> Iterator[tuple[int, int]]:
    """(capability id, offset) of each PCI Express extended capability."""
    seen: set[int] = set()
    at = EXTENDED_START
    while EXTENDED_START <= at <= len(config) - 4 and at not in seen:
        seen.add(at)
        header = int.from_bytes(config[at : at + 4], "little")
        if header in (0, 0xFFFFFFFF):
            return
        yield header & 0xFFFF, at
        at = (header >> 20) & 0xFFC


def _serial(config: bytes) -> str:
    for identity, at in extended_capabilities(config):
        if identity == EXT_CAP_SERIAL and at + 12 <= len(config):
            return config[at + 4 : at + 12][::-1].hex("-")
    return ""
