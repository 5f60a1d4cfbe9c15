"""What facts cannot tell: other runs, and exclusive users of the disks below a function."""

from __future__ import annotations

import time

from runner.host.host_uses import functions_on
from runner.host.passthrough import journal
from runner.host.passthrough.host import Host
from runner.host.passthrough.journal import Journal
from runner.host.sysfs import Sysfs, names_or
from runner.lending.findings import Finding
from runner.lending.match import Request
from runner.typed import Mapping, Sequence

DYING_SECONDS = 5.0


def wait_for_the_dying(host: Host, seconds: float = DYING_SECONDS) -> None:
    """Let the VM process of a killed supervisor come to its end, so that its journal can be followed: it has
    to let go of all the memory that was pinned.  Call under the StateLock.
    """
    until = time.monotonic() + seconds
    while not all(journal.owner_lives(host.sysfs, one) for one in journal.living(host.folder).values()):
        if time.monotonic() > until:
            return
        time.sleep(0.02)


def live_findings(host: Host, wanted: Sequence[Request]) -> list[Finding]:
    """Findings of this moment, to be asked under the StateLock right before the first write."""
    found = []
    held = journal.living(host.folder)
    for one in wanted:
        address = one.function.address
        if other := held.get(address):
            found.append(_held(host, one, other))
        elif lent := _lent_of_group(held, group := one.function.iommu_group):
            member, other = lent
            what = f"{address} shares IOMMU group {group} with {member}, which is lent to {other.vm}"
            mend = f"a group goes to one guest as a whole: vmrun stop {other.vm}, or give it both"
            found.append(Finding("held-group", one.name, what, mend))
        for node in _block_nodes(host.sysfs, address):
            if used := host.block_user(node):
                mend = f"see who uses it (lsblk {node}; fuser -v {node}) and end that first"
                found.append(Finding("claimed", one.name, f"below {address} the disk {used}", mend))
    return found


def _held(host: Host, one: Request, other: Journal) -> Finding:
    address = one.function.address
    if journal.owner_lives(host.sysfs, other):
        what = f"{address} is lent to {other.vm} (process {other.pid})"
        return Finding("held", one.name, what, f"stop that machine: vmrun stop {other.vm}")
    what = f"{address} is lent to {other.vm}, whose supervisor (process {other.pid}) was killed"
    mend = f"end what has its group open still: fuser -v /dev/vfio/{one.function.iommu_group}"
    return Finding("held", one.name, what, mend)


def _lent_of_group(held: Mapping[str, Journal], group: int | None) -> tuple[str, Journal] | None:
    """A function of the group that a living run has, and who that is."""
    for address, run in held.items():
        if group is not None and (address, group) in [(one.address, one.group) for one in run.bindings]:
            return address, run
    return None


def _block_nodes(sysfs: Sysfs, address: str) -> list[str]:
    """/dev nodes of disks and partitions whose device path leads through the function."""
    return [
        f"/dev/{name.replace('!', '/')}"
        for name in names_or(sysfs, "/sys/class/block")
        if address in functions_on(sysfs, sysfs.realpath(f"/sys/class/block/{name}"))
    ]
