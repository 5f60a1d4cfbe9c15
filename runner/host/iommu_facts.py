"""The IOMMU: is it on, does it remap interrupts, how wide are its addresses."""

from __future__ import annotations

from runner.host.sysfs import Sysfs, names_or, text_or
from runner.typed import NamedTuple

_TYPE1 = "/sys/module/vfio_iommu_type1/parameters"


class IommuFacts(NamedTuple):
    """What VFIO's type 1 backend will find."""

    on: bool = False
    interrupt_remapping: bool = False
    unsafe_interrupts: bool = False
    dma_entry_limit: int = 0
    iova_bits: int = 0
    acs_override: bool = False


def iommu_facts(sysfs: Sysfs) -> IommuFacts:
    """Read /sys/class/iommu, the groups, the interrupt chips and vfio_iommu_type1's parameters."""
    limit = text_or(sysfs, f"{_TYPE1}/dma_entry_limit", "0")
    return IommuFacts(
        on=_is_on(sysfs),
        interrupt_remapping=_interrupts_are_remapped(sysfs),
        unsafe_interrupts=text_or(sysfs, f"{_TYPE1}/allow_unsafe_interrupts") in ("Y", "1"),
        dma_entry_limit=int(limit) if limit.isdigit() else 0,
        iova_bits=_iova_bits(sysfs),
        acs_override="pcie_acs_override=" in text_or(sysfs, "/proc/cmdline"),
    )


def _is_on(sysfs: Sysfs) -> bool:
    """Units and groups: VFIO's no-IOMMU mode makes groups as well, that isolate nothing."""
    return bool(names_or(sysfs, "/sys/class/iommu")) and bool(names_or(sysfs, "/sys/kernel/iommu_groups"))


def _interrupts_are_remapped(sysfs: Sysfs) -> bool:
    """A register says only that the IOMMU could; the chips "IR-IO-APIC", "IR-PCI-MSI" say that it does."""
    lines = text_or(sysfs, "/proc/interrupts").splitlines()
    chip = len(lines[0].split()) + 1 if lines else 0  # after the number and a count for each CPU
    rows = (line.split() for line in lines[1:])
    return any(len(row) > chip and row[chip].startswith("IR-") for row in rows)


def _iova_bits(sysfs: Sysfs) -> int:
    """The narrowest unit: Intel's MGAW (VT-d 10.4.2), AMD's HATS (IOMMU 3.4.13); 0 when unknown."""
    widths = []
    for unit in names_or(sysfs, "/sys/class/iommu"):
        intel = text_or(sysfs, f"/sys/class/iommu/{unit}/intel-iommu/cap")
        amd = text_or(sysfs, f"/sys/class/iommu/{unit}/amd-iommu/features")
        if intel:
            widths.append((int(intel, 16) >> 16 & 0x3F) + 1)
        elif amd:
            features = amd.rpartition(":")[2]  # newer kernels print the second register before it
            widths.append((48, 57, 64, 64)[int(features, 16) >> 10 & 3])
    return min(widths, default=0)
