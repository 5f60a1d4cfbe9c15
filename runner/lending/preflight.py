"""Everything that can be known before the first write, all findings at once.

Pure: requests and facts in, findings out, so each refusal is tested on made-up facts and
``vmrun plan`` shows them without the hardware.  A finding says what stands against the
run and the command or choice that mends it.
"""

from __future__ import annotations

from runner.definition.model import DeviceEntry
from runner.hostfacts import HostFacts
from runner.lending.findings import VFIO_DRIVER, Finding
from runner.lending.function_rules import function_findings
from runner.lending.match import Request, matches
from runner.typed import Iterator, Sequence

IOAPIC_ROUTES = 24 + 16  # what the interrupt routing table holds besides MSI


def judged(
    entries: Sequence[DeviceEntry], facts: HostFacts, ram: Sequence[tuple[int, int]]
) -> tuple[tuple[Request, ...], tuple[Finding, ...]]:
    """The functions that entries mean, and all findings; an entry that means none is one of them."""
    wanted, failed = matches(entries, facts)
    return wanted, failed + preflight(wanted, facts, ram)


def preflight(
    wanted: Sequence[Request], facts: HostFacts, ram: Sequence[tuple[int, int]] = ()
) -> tuple[Finding, ...]:
    """Findings for all requests; () to go ahead.  ``ram``: guest RAM as (start, size) in bytes."""
    found = [*host_findings(facts), *_memory(facts, ram), *_vectors(wanted, facts), *_twice(wanted)]
    for one in wanted:
        found += function_findings(one, wanted, facts, ram)
    return tuple(found)


def changes(wanted: Sequence[Request]) -> tuple[str, ...]:
    """What a run would do to drivers, a line for each function."""
    return tuple(
        f"{one.function.address}: {one.function.driver or 'no driver'} -> {VFIO_DRIVER}, and back at the end"
        for one in wanted
        if one.bind == "auto" and one.function.driver != VFIO_DRIVER
    )


def host_findings(facts: HostFacts) -> Iterator[Finding]:
    """What stands against passing anything through."""
    if not facts.iommu:
        mend = {
            "intel": "switch VT-d on in the firmware and boot the kernel with intel_iommu=on",
            "amd": "switch the IOMMU (AMD-Vi) on in the firmware, and boot without amd_iommu=off",
        }.get(facts.cpu_vendor, "switch the IOMMU on in the firmware; on Intel boot with intel_iommu=on")
        what = "this host's IOMMU is off or missing, so no device can be isolated"
        yield Finding("iommu-off", "", what, mend)
    for module in ("vfio_pci", "vfio_iommu_type1"):
        if module not in facts.modules:
            what = f"the kernel module {module} is not loaded"
            yield Finding(f"module-{module}", "", what, f"modprobe {module}")
    if "/dev/vfio/vfio" not in facts.devices and "vfio" in facts.modules:
        what = "/dev/vfio/vfio is missing or this user may not open it"
        yield Finding("vfio-node", "", what, "run as root, or chmod 0666 /dev/vfio/vfio")
    if facts.acs_override:
        what = "the kernel runs with pcie_acs_override, so what looks like an IOMMU group may be none"
        yield Finding("acs-override", "", what, "boot the kernel without pcie_acs_override")


def _memory(facts: HostFacts, ram: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    """All guest RAM is pinned and mapped for DMA, IOVA = guest-physical address."""
    need = sum(size for _, size in ram)
    if facts.memlock is not None and need > facts.memlock:
        what = (
            f"all of the guest's memory is pinned for DMA: {_mib(need)}, "
            f"and this user may lock {_mib(facts.memlock)} (RLIMIT_MEMLOCK)"
        )
        mend = (
            f"ulimit -l {need // 1024} (raise the hard limit in /etc/security/limits.conf: "
            "'USER - memlock unlimited'), or run as root"
        )
        yield Finding("memlock", "", what, mend)
    limit = facts.dma_entry_limit
    if 0 < limit < len(ram):
        what = f"the guest's memory has {len(ram)} regions and VFIO maps {limit} (dma_entry_limit)"
        mend = "modprobe -r vfio_iommu_type1 and modprobe vfio_iommu_type1 dma_entry_limit=65535"
        yield Finding("dma-entries", "", what, mend)
    top = max((start + size for start, size in ram), default=0)
    if facts.iova_bits and top > 1 << facts.iova_bits:
        what = f"the guest's memory ends at {top:#x}, beyond the IOMMU's {facts.iova_bits} address bits"
        yield Finding("iova-width", "", what, "give the guest less memory")


def _twice(wanted: Sequence[Request]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for one in wanted:
        address = one.function.address
        if address in first:
            what = f"{address} is devices.{first[address]} already"
            yield Finding("twice", one.name, what, "name each function once")
        first.setdefault(address, one.name)


def _vectors(wanted: Sequence[Request], facts: HostFacts) -> Iterator[Finding]:
    vectors = sum(max(one.function.msix_vectors, one.function.msi_vectors, 1) for one in wanted)
    routes = dict(facts.kvm.capabilities).get("KVM_CAP_IRQ_ROUTING", 0)
    if routes and vectors + IOAPIC_ROUTES > routes:
        what = f"the devices have {vectors} interrupt vectors and KVM routes {routes - IOAPIC_ROUTES}"
        yield Finding("vectors", "", what, "give the guest fewer devices")
    need = 2 * vectors + 64  # an eventfd each, one more for INTx's resample, and everything else
    if facts.open_files is not None and need > facts.open_files:
        what = f"{vectors} interrupt vectors need {need} descriptors, and {facts.open_files} are allowed"
        yield Finding("open-files", "", what, f"ulimit -n {need}")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB" if size >= 1 << 20 else f"{size // 1024} KiB"
