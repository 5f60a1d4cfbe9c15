"""Every PCI function of the host, from /sys/bus/pci/devices.

As an ordinary user only the first 64 bytes of configuration space can be read: then the
counts of MSI and MSI-X vectors and the serial number are not known, and stay 0 and "";
``capabilities_known`` says so.
"""

from __future__ import annotations

from runner.host.host_uses import functions_on, host_uses
from runner.host.pci_config import ConfigFacts, parse_config
from runner.host.sysfs import Sysfs, int_or, link_or, names_or, text_or
from runner.hostfacts import BarFacts, PciFacts

DEVICES = "/sys/bus/pci/devices"

# include/linux/ioport.h: the flags in the third column of ``resource``
_FLAG_IO, _FLAG_MEM, _FLAG_PREFETCH, _FLAG_MEM64 = 0x100, 0x200, 0x2000, 0x100000
_ROM_LINE = 6


def pci_facts(sysfs: Sysfs) -> tuple[PciFacts, ...]:
    """All functions, sorted by address."""
    uses = host_uses(sysfs)
    slots = _slot_names(sysfs)
    return tuple(
        _function(sysfs, address, uses.get(address, ()), slots.get(address.rpartition(".")[0], ""))
        for address in names_or(sysfs, DEVICES)
    )


def _function(sysfs: Sysfs, address: str, uses: tuple[str, ...], slot: str) -> PciFacts:
    at = f"{DEVICES}/{address}"
    config = _config(sysfs, at)
    bars, rom_size = _resources(text_or(sysfs, f"{at}/resource"))
    group = link_or(sysfs, f"{at}/iommu_group")
    above = functions_on(sysfs, sysfs.realpath(at))
    class_code = _hex(sysfs, f"{at}/class").rjust(6, "0")
    return PciFacts(
        address=address,
        vendor=_hex(sysfs, f"{at}/vendor"),
        device=_hex(sysfs, f"{at}/device"),
        subsystem_vendor=_hex(sysfs, f"{at}/subsystem_vendor"),
        subsystem_device=_hex(sysfs, f"{at}/subsystem_device"),
        class_code=class_code,
        revision=_hex(sysfs, f"{at}/revision"),
        driver=link_or(sysfs, f"{at}/driver"),
        driver_override=_override(sysfs, at),
        iommu_group=int(group) if group.isdigit() else None,
        reset_methods=_reset_methods(sysfs, at),
        bars=bars,
        rom_size=rom_size,
        intx_pin=config.intx_pin,
        msi_vectors=config.msi_vectors,
        msix_vectors=config.msix_vectors,
        serial=config.serial,
        slot=slot,
        parent=above[-2] if len(above) > 1 else "",
        is_bridge=config.header_type != 0 or class_code.startswith("0604"),
        boot_vga=int_or(sysfs, f"{at}/boot_vga") == 1,
        vfs=int_or(sysfs, f"{at}/sriov_numvfs"),
        uses=uses,
        reserved=_reserved(sysfs, group) if group.isdigit() else (),
        capabilities_known=config.whole,
    )


def _hex(sysfs: Sysfs, path: str) -> str:
    return text_or(sysfs, path).removeprefix("0x").lower()


def _override(sysfs: Sysfs, at: str) -> str:
    """The kernel prints "(null)" for no override."""
    return text_or(sysfs, f"{at}/driver_override").replace("(null)", "")


def _config(sysfs: Sysfs, at: str) -> ConfigFacts:
    try:
        return parse_config(lambda offset, length: sysfs.read_at(f"{at}/config", offset, length))
    except OSError:
        return ConfigFacts()


def _reset_methods(sysfs: Sysfs, at: str) -> tuple[str, ...]:
    """Linux 5.15 names them in their order; an older one only has the switch, or not."""
    methods = text_or(sysfs, f"{at}/reset_method").split()
    if methods:
        return tuple(methods)
    if sysfs.exists(f"{at}/reset") and not sysfs.exists(f"{at}/reset_method"):
        return ("unnamed",)
    return ()


def _resources(text: str) -> tuple[tuple[BarFacts, ...], int]:
    """BARs and the size of the ROM from ``resource``: a line "start end flags" each."""
    bars: list[BarFacts] = []
    rom_size = 0
    for number, line in enumerate(text.splitlines()[: _ROM_LINE + 1]):
        start, end, flags = (int(word, 16) for word in line.split())
        if not flags:
            continue
        size = end - start + 1
        if number == _ROM_LINE:
            rom_size = size
        else:
            bars.append(BarFacts(number, _bar_kind(flags), size, bool(flags & _FLAG_PREFETCH)))
    return tuple(bars), rom_size


def _bar_kind(flags: int) -> str:
    if flags & _FLAG_IO:
        return "io"
    return "mem64" if flags & _FLAG_MEM64 else "mem32"


def _slot_names(sysfs: Sysfs) -> dict[str, str]:
    """Address without function ("0000:01:00") to the name on the case."""
    slots = "/sys/bus/pci/slots"
    return {text_or(sysfs, f"{slots}/{name}/address"): name for name in names_or(sysfs, slots)}


def _reserved(sysfs: Sysfs, group: str) -> tuple[tuple[int, int, str], ...]:
    """Bus addresses that the group's IOMMU keeps: (first, last, kind)."""
    lines = text_or(sysfs, f"/sys/kernel/iommu_groups/{group}/reserved_regions").splitlines()
    rows = (line.split() for line in lines)
    return tuple((int(row[0], 16), int(row[1], 16), row[2]) for row in rows if len(row) == 3)
