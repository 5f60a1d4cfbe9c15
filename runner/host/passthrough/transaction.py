"""The whole of it: recover, preflight, journal, take; and back.

``prepare`` is what a supervisor calls.  It opens no group, so the engine that it hands the
addresses and group numbers to can be ours or QEMU.
"""

from __future__ import annotations

import os
import time

from runner.definition.model import DeviceEntry
from runner.errors import HostError, HostIoError
from runner.host.passthrough import bind, journal
from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.journal import Binding, JournalFile
from runner.host.passthrough.live import live_findings, wait_for_the_dying
from runner.host.passthrough.recovery import Restored, replay, undo
from runner.host.passthrough.state import StateLock
from runner.host.pci_facts import pci_facts
from runner.host.sysfs import Sysfs
from runner.hostfacts import HostFacts
from runner.lending.findings import refuse
from runner.lending.match import Request
from runner.lending.preflight import judged
from runner.typed import TYPE_CHECKING, NamedTuple, Sequence

if TYPE_CHECKING:
    from types import TracebackType

NODE_SECONDS = 2.0


class Lent(NamedTuple):
    """A function that is on vfio-pci now.  ``node`` is not opened."""

    name: str  # the definition's
    address: str
    group: int
    node: str  # /dev/vfio/GROUP


class Prepared:
    """Functions lent to one machine.  A context manager: the end gives everything back.

    ``lock_fd`` is to be inherited by the VM process, and by QEMU: while it is open anywhere
    nobody takes the run for dead.  ``recovered``: what a killed run had left, and was undone first.
    """

    def __init__(
        self, host: Host, vm: str, lent: tuple[Lent, ...], was: tuple[Binding, ...], file: JournalFile
    ) -> None:
        self.lent = lent
        self.recovered: tuple[Restored, ...] = ()
        self._host = host
        self._vm = vm
        self._was = was
        self._file: JournalFile | None = file
        self._owner = os.getpid()

    @property
    def groups(self) -> tuple[int, ...]:
        """Group numbers, each once, in the order of the definition."""
        return tuple(dict.fromkeys(one.group for one in self.lent))

    @property
    def lock_fd(self) -> int:
        """The journal's descriptor; -1 once everything is given back."""
        return self._file.fd if self._file else -1

    def restore(self) -> tuple[Restored, ...]:
        """Give everything back, after the VM process has ended.

        Idempotent; a function that does not come back is a complaint in the answer, and its
        journal stays for ``vmrun host restore``.  Does nothing in a forked child.
        """
        file = self._file
        if file is None or os.getpid() != self._owner:
            return ()
        with StateLock(self._host.folder):
            self._file = None
            return undo(self._host, self._vm, self._was, file)

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def prepare(
    entries: Sequence[DeviceEntry],
    facts: HostFacts,
    ram: Sequence[tuple[int, int]],
    *,
    vm: str,
    host: Host | None = None,
) -> Prepared:
    """Lend the functions that ``entries`` mean to the machine ``vm``.

    ``ram``: guest RAM as (start, size) in bytes.  The PCI part of ``facts`` is read anew
    under the lock, so that nothing is done on what was true a while ago.  Raises Refused
    with every finding and no driver changed, or HostError after everything was put back.
    """
    host = host or this_host()
    with StateLock(host.folder):
        wait_for_the_dying(host)
        recovered = replay(host)
        facts = facts._replace(pci=pci_facts(host.sysfs))
        wanted, found = judged(entries, facts, ram)
        refuse([*found, *live_findings(host, wanted)])
        was, file = take_all(host, wanted, vm)
        lent = tuple(
            Lent(one.name, now.address, now.group or 0, f"/dev/vfio/{now.group}")
            for one, now in zip(wanted, was, strict=True)
        )
        prepared = Prepared(host, vm, lent, was, file)
        prepared.recovered = recovered
        return prepared


def take_all(
    host: Host, wanted: Sequence[Request], vm: str, *, keep: bool = False
) -> tuple[tuple[Binding, ...], JournalFile]:
    """Journal, then bring each function to vfio-pci; on failure all of them back.  Under the lock.

    ``keep``: once done, no start undoes it.
    """
    was = tuple(bind.binding_of(host.sysfs, one.function.address) for one in wanted)
    file = journal.begin(host.sysfs, host.folder, vm, was)
    try:
        for one in was:
            bind.take(host.sysfs, one.address)
        for one in was:
            _wait_for_node(host.sysfs, one)
        if keep:
            file = journal.keep(file)
    except BaseException as error:
        left = [one.complaint for one in undo(host, vm, was, file) if one.complaint]
        if left and isinstance(error, HostError):
            error.hint = "; ".join([*left, "vmrun host restore tries again"])
        raise
    return was, file


def _wait_for_node(sysfs: Sysfs, one: Binding) -> None:
    """The group's node is made by the kernel at once, and by udev a little later."""
    node = f"/dev/vfio/{one.group}"
    until = time.monotonic() + NODE_SECONDS
    while not sysfs.exists(node):
        if time.monotonic() > until:
            raise HostIoError(f"{node} has not appeared for {one.address}", hint="is /dev a devtmpfs?")
        time.sleep(0.005)
