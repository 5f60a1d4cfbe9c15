"""The rules of preflight that are about one function, its group and its bus."""

from __future__ import annotations

from runner.hostfacts import HostFacts, PciFacts
from runner.lending.findings import VFIO_DRIVER, Finding
from runner.lending.match import Request, described
from runner.typed import Iterator, Sequence

HARMLESS_DRIVERS = ("", "pci-stub", "pcieport")  # none, or driver_managed_dma in the kernel, as VFIO's own


def function_findings(
    one: Request, wanted: Sequence[Request], facts: HostFacts, ram: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Every finding about one request among ``wanted``; ``ram`` as (start, size) in bytes."""
    if one.function.is_bridge or one.function.class_code.startswith("06"):
        yield _bridge(one)
        return
    yield from _function(one)
    yield from _access(one, facts)
    yield from _group(one, wanted, facts)
    yield from _reset(one, wanted, facts)
    yield from _interrupts(one, facts)
    yield from _reserved(one, ram)


def _bridge(one: Request) -> Finding:
    who = described(one.function)
    if one.function.is_bridge:
        what = f"{who} is a bridge, and only what is below a bridge can be passed through"
        return Finding("bridge", one.name, what, "choose a function below it")
    kind = "a host bridge" if one.function.class_code.startswith("0600") else "a bridge of the chipset"
    return Finding("host-bridge", one.name, f"{who} is {kind}", "choose another function")


def _function(one: Request) -> Iterator[Finding]:
    """What must never be taken from a host."""
    function = one.function
    who = described(function)
    if function.boot_vga:
        what = f"{who} is the display that the host booted on"
        mend = "choose another one, or set another primary display in the firmware"
        yield Finding("boot-display", one.name, what, mend)
    if function.uses:
        what = f"the host lives on {who}: {', '.join(function.uses)}"
        mend = "free it first (umount, swapoff, cryptsetup close, ip route del), or choose another"
        yield Finding("in-use", one.name, what, mend)
    if function.vfs:
        what = f"{who} has {function.vfs} virtual functions enabled, which would vanish with it"
        mend = f"echo 0 > /sys/bus/pci/devices/{function.address}/sriov_numvfs"
        yield Finding("pf-with-vfs", one.name, what, mend)


def _access(one: Request, facts: HostFacts) -> Iterator[Finding]:
    function = one.function
    if function.driver != VFIO_DRIVER:
        by_hand = f"vmrun host bind {function.address}"
        if one.bind == "never":
            what = f'{described(function)} is not on {VFIO_DRIVER} and the definition says bind = "never"'
            yield Finding("not-bound", one.name, what, f'{by_hand}, or bind = "auto"')
        elif facts.euid != 0:
            what = f"only root may take {function.address} from {function.driver or 'no driver'}"
            yield Finding("permission", one.name, what, f"run as root, or once: sudo {by_hand}")
    elif facts.euid != 0 and f"/dev/vfio/{function.iommu_group}" not in facts.devices:
        what = f"this user may not open /dev/vfio/{function.iommu_group}, the group of {function.address}"
        yield Finding("permission", one.name, what, f"sudo chown $USER /dev/vfio/{function.iommu_group}")


def _group(one: Request, wanted: Sequence[Request], facts: HostFacts) -> Iterator[Finding]:
    """A group goes as a whole.  A bridge is exempt on pcieport or without a driver; until Linux 5.19 on any,
    since then its driver may do DMA for the kernel like another.
    """
    group = one.function.iommu_group
    if group is None:
        if facts.iommu:
            what = f"{described(one.function)} is in no IOMMU group, so nothing isolates it"
            mend = "choose a function that vmrun host list shows with a group"
            yield Finding("no-group", one.name, what, mend)
        return
    ours = {other.function.address for other in wanted}
    for member in facts.pci:
        if member.iommu_group != group or member.address in ours:
            continue
        if not _harmless(member.driver):
            lives = f", on which the host lives ({', '.join(member.uses)})" if member.uses else ""
            what = (
                f"{one.function.address} shares IOMMU group {group} with {described(member)}{lives}, "
                "and a group goes to one guest as a whole"
            )
            yield Finding("group-member", one.name, what, _way_out(member))


def _harmless(driver: str) -> bool:
    """Whether a group is viable with a member on it; vfio-pci has variants for some vendors' functions, such
    as mlx5_vfio_pci.
    """
    return driver in HARMLESS_DRIVERS or driver.replace("_", "-").endswith(VFIO_DRIVER)


def _way_out(member: PciFacts) -> str:
    if member.is_bridge:
        return f"echo {member.address} > /sys/bus/pci/drivers/{member.driver}/unbind (it goes on forwarding)"
    if member.uses:
        return "move the card to another slot"
    return f"vmrun host bind {member.address}, or make it a device of this machine too"


def bus_neighbours(function: PciFacts, facts: HostFacts) -> tuple[PciFacts, ...]:
    """The other functions on its bus below a bridge, which a bus reset would hit."""
    if not function.parent:
        return ()
    bus = function.address[:-5]
    return tuple(one for one in facts.pci if one.address[:-5] == bus and one.address != function.address)


def _reset(one: Request, wanted: Sequence[Request], facts: HostFacts) -> Iterator[Finding]:
    function = one.function
    ours = {other.function.address for other in wanted}
    foreign = [near for near in bus_neighbours(function, facts) if near.address not in ours]
    hit = ", ".join(described(near) for near in foreign)
    if one.allow_no_reset:
        return
    if function.reset_methods == ("bus",) and foreign:
        what = f"{function.address} can only be reset with its whole bus, which also hits {hit}"
        mend = f"make them devices of this machine too, or [devices.{one.name}] allow_no_reset = true"
        yield Finding("bus-reset", one.name, what, mend)
    if function.reset_methods or (bus_neighbours(function, facts) and not foreign):
        return  # VFIO resets a whole bus for whoever has all of it (VFIO_DEVICE_PCI_HOT_RESET)
    also = f" (a reset of its bus would also hit {hit})" if hit else ""
    what = f"{described(function)} offers no reset{also}, so what one system left in it is there for the next"
    mend = f"[devices.{one.name}] allow_no_reset = true allows it"
    yield Finding("no-reset", one.name, what, mend)


def _interrupts(one: Request, facts: HostFacts) -> Iterator[Finding]:
    """Without remapping a device can send any interrupt of the host by a DMA write."""
    if facts.interrupt_remapping or not facts.iommu:
        return
    if not one.allow_unsafe_interrupts:
        what = (
            "this host does not remap interrupts, so a guest with "
            f"{one.function.address} could send the host any interrupt"
        )
        mend = (
            f"[devices.{one.name}] allow_unsafe_interrupts = true allows it; better, boot with remapping on"
        )
        yield Finding("unsafe-interrupts", one.name, what, mend)
    elif not facts.unsafe_interrupts:
        what = "the definition allows unsafe interrupts, and the host's switch for them is off"
        switch = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        mend = f"echo Y > {switch} (it opens the whole host)"
        yield Finding("unsafe-interrupts-switch", one.name, what, mend)


def _reserved(one: Request, ram: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    """Regions the platform keeps: a direct one pins the device to it, any other must not be RAM."""
    for first, last, kind in one.function.reserved:
        if kind == "direct":
            what = (
                f"the firmware keeps {first:#x}-{last:#x} for {one.function.address} (RMRR), "
                "and the kernel lends no such device"
            )
            yield Finding("rmrr", one.name, what, "see the firmware's setup for the feature that uses it")
            continue
        for start, size in ram:
            if kind != "direct-relaxable" and start <= last and first < start + size:
                what = (
                    f"guest memory {start:#x}-{start + size - 1:#x} covers "
                    f"{first:#x}-{last:#x}, which the IOMMU of {one.function.address} keeps ({kind})"
                )
                yield Finding("reserved", one.name, what, "give the guest less memory")
