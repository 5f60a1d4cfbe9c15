"""``vmrun host bind`` and ``unbind``: one function, taken until it is given back by hand."""

from __future__ import annotations

from runner.errors import HostError
from runner.host.facts import HostFacts
from runner.host.passthrough import bind, journal
from runner.host.passthrough.findings import VFIO_DRIVER, refuse
from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.live import live_findings
from runner.host.passthrough.match import Request, described, listed
from runner.host.passthrough.preflight import preflight
from runner.host.passthrough.recovery import Restored, replay, undo
from runner.host.passthrough.state import StateLock
from runner.host.passthrough.transaction import take_all

# These are questions about a machine, and there is none yet.
RULES_OF_A_MACHINE = ("group-member", "unsafe-interrupts", "vfio-node", "no-reset", "bus-reset")
BY_HAND = "vmrun host bind"


def bind_by_hand(address: str, facts: HostFacts, host: Host | None = None) -> bool:
    """Take one function.  False when it was on vfio-pci already.  Raises Refused."""
    host = host or this_host()
    with StateLock(host.folder):
        replay(host)
        wanted = [Request(address, one) for one in facts.pci if one.address == address]
        if not wanted:
            raise HostError(f"this host has no PCI function {address}; there is {listed(facts.pci)}")
        if bind.binding_of(host.sysfs, address).driver == VFIO_DRIVER:
            return False
        found = [one for one in preflight(wanted, facts) if one.rule not in RULES_OF_A_MACHINE]
        refuse([one._replace(device="") for one in [*found, *live_findings(host, wanted)]])
        _, file = take_all(host, wanted, BY_HAND, keep=True)
        file.leave()
        return True


def unbind_by_hand(address: str, facts: HostFacts, host: Host | None = None) -> Restored:
    """Give one function back: to what its journal says, or without one to the driver that wants it."""
    host = host or this_host()
    with StateLock(host.folder):
        for found in journal.journals(host.folder):
            ours = found.journal is not None and address in [one.address for one in found.journal.bindings]
            if found.journal and ours and found.file is None:
                raise HostError(
                    f"{address} is lent to {found.journal.vm} (process {found.journal.pid})",
                    hint="stop that machine; it gives the function back itself",
                )
            if found.journal and ours and found.file:
                done = undo(host, found.journal.vm, found.journal.bindings, found.file)
                return next(one for one in done if one.address == address)
            if found.file:
                found.file.leave()
        return _without_journal(address, facts, host)


def _without_journal(address: str, facts: HostFacts, host: Host) -> Restored:
    there = [one for one in facts.pci if one.address == address]
    if not there:
        raise HostError(f"this host has no PCI function {address}; there is {listed(facts.pci)}")
    if there[0].driver != VFIO_DRIVER:
        raise HostError(f"{described(there[0])} is not on {VFIO_DRIVER}, so there is nothing to give back")
    if user := host.group_user(there[0].iommu_group):
        raise HostError(f"{address} is used by {user}", hint="end that first")
    complaint = bind.release(host.sysfs, address)
    return Restored(address, bind.binding_of(host.sysfs, address).driver, "", complaint)
