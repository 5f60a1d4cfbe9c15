"""``vmrun host bind`` and ``unbind``: one function, taken until it is given back by hand."""

from __future__ import annotations

import os

from runner.errors import HostError, HostPermissionError, UsageError
from runner.host.passthrough import bind, journal
from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.journal import Journal, JournalFile
from runner.host.passthrough.live import live_findings, wait_for_the_dying
from runner.host.passthrough.recovery import Restored, replay, undo
from runner.host.passthrough.state import StateLock
from runner.host.passthrough.transaction import take_all
from runner.host.pci_facts import pci_facts
from runner.hostfacts import HostFacts, PciFacts, is_address
from runner.lending.findings import VFIO_DRIVER, refuse
from runner.lending.match import Request, described, listed
from runner.lending.preflight import preflight

# These are questions about a machine, and there is none yet.
RULES_OF_A_MACHINE = (
    "group-member", "held-group", "unsafe-interrupts", "vfio-node", "no-reset", "bus-reset",
)  # fmt: skip
BY_HAND = "vmrun host bind"


def bind_by_hand(address: str, facts: HostFacts, host: Host | None = None) -> bool:
    """Take one function.  False when it was on vfio-pci already.  Raises Refused."""
    host = host or this_host()
    existing(address, facts)
    with StateLock(host.folder):
        wait_for_the_dying(host)
        replay(host)
        facts = facts._replace(pci=pci_facts(host.sysfs))  # what was true a while ago is not judged
        wanted = [Request(address, existing(address, facts))]
        if wanted[0].function.driver == VFIO_DRIVER:
            return False
        found = [*preflight(wanted, facts), *live_findings(host, wanted)]
        refuse([one._replace(device="") for one in found if one.rule not in RULES_OF_A_MACHINE])
        _, file = take_all(host, wanted, BY_HAND, keep=True)
        file.leave()
        return True


def unbind_by_hand(address: str, facts: HostFacts, host: Host | None = None) -> tuple[Restored, ...]:
    """Give one function back: to what its journals say, or without one to the driver that wants it.

    What a killed run had besides it comes back with it.  Raises UsageError, HostError or
    HostPermissionError when there is nothing to be done.
    """
    host = host or this_host()
    existing(address, facts)
    with StateLock(host.folder):
        wait_for_the_dying(host)
        lent = journal.living(host.folder)
        if holder := lent.get(address):
            raise HostError(
                f"{address} is lent to {holder.vm} (process {holder.pid})",
                hint="stop that machine; it gives the function back itself",
            )
        done: dict[str, Restored] = {}
        for told, file in _journals_of(address, host):
            for one in undo(host, told.vm, told.bindings, file, lent):
                if not (one.address in done and done[one.address].complaint):
                    done[one.address] = one
        if done:
            return tuple(done.values())
        return (_without_journal(address, facts._replace(pci=pci_facts(host.sysfs)), host),)


def _journals_of(address: str, host: Host) -> list[tuple[Journal, JournalFile]]:
    """Those of the dead of this boot that name the function, the latest first: the first knows what was."""
    found: list[tuple[int, Journal, JournalFile]] = []
    for _, told, file in journal.journals(host.folder):
        if file is None:
            continue
        here = told is not None and address in [one.address for one in told.bindings]
        if told is not None and here and told.boot == journal.boot_id(host.sysfs):
            found.append((os.fstat(file.fd).st_mtime_ns, told, file))
        else:
            file.leave()
    return [(told, file) for _, told, file in sorted(found, key=lambda one: one[0], reverse=True)]


def _without_journal(address: str, facts: HostFacts, host: Host) -> Restored:
    there = existing(address, facts)
    if there.driver != VFIO_DRIVER:
        raise HostError(f"{described(there)} is not on {VFIO_DRIVER}, so there is nothing to give back")
    if facts.euid != 0:
        words = f"only root may give {address} back to a driver"
        raise HostPermissionError(words, hint=f"sudo vmrun host unbind {address}")
    if user := host.group_user(there.iommu_group):
        raise HostError(f"{address} is used by {user}", hint="end that first")
    back = bind.release(host.sysfs, address)
    driver = bind.binding_of(host.sysfs, address).driver
    return Restored(address, driver, "", back.complaint, note=back.note)


def existing(address: str, facts: HostFacts) -> PciFacts:
    """The function at an address.  Raises UsageError for what is no address, HostError for no function."""
    if not is_address(address):
        raise UsageError(
            f"{address!r} is no PCI address", hint="one looks like 0000:01:00.0: vmrun host list"
        )
    for one in facts.pci:
        if one.address == address:
            return one
    there = [one for one in facts.pci if not one.is_bridge and not one.class_code.startswith("06")]
    hint = "vmrun host list shows every function"
    raise HostError(f"this host has no PCI function {address}; there is {listed(there)}", hint=hint)
