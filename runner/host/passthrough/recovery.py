"""Giving back: at the end of a run, at the next start after a killed one, or by hand."""

from __future__ import annotations

from runner.errors import HostIoError
from runner.host.passthrough import bind, journal
from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.journal import Binding, Journal, JournalFile
from runner.host.passthrough.live import wait_for_the_dying
from runner.host.passthrough.state import Busy, StateLock, pending
from runner.lending.findings import VFIO_DRIVER
from runner.light import MappingProxyType
from runner.typed import Mapping, NamedTuple, Sequence

UNREADABLE = (
    "it is no journal of this version of vmrun: what it names is brought back by hand "
    "(vmrun host unbind ADDRESS), then the file can go"
)


class Restored(NamedTuple):
    """What became of one function; ``complaint`` "" when it is as it was before ``vm`` had it."""

    address: str  # or the path of a journal that could not be followed, or of their folder
    driver: str
    vm: str
    complaint: str
    gone: bool = False  # unplugged meanwhile, so nothing was left to give back
    note: str = ""  # what went wrong without keeping it from its driver

    @property
    def level(self) -> str:
        """How loud :meth:`words` are to be said."""
        return "error" if self.complaint else "warning" if self.gone or self.note else "info"

    def words(self) -> str:
        """What became of it, in one clause."""
        return "; ".join(each for each in (self._outcome(), self.note) if each)

    def _outcome(self) -> str:
        if self.complaint and self.address.startswith("/"):
            return f"{self.address}: {self.complaint}"
        if self.complaint:
            return f"{self.address or self.vm} was not given back: {self.complaint}"
        if self.gone:
            return f"{self.address} is not there any more, so it cannot be given back"
        if self.driver == VFIO_DRIVER:
            return f"{self.address} stays on {VFIO_DRIVER}, as it was"
        return f"{self.address} is back with {self.driver or 'no driver'}"


def recover(host: Host | None = None) -> tuple[Restored, ...]:
    """Undo what killed runs left, as the first act of the next start.  Cheap when there is nothing.

    Never raises, and waits for nobody: a machine without passthrough has to start as well,
    and :func:`~runner.host.passthrough.transaction.prepare` does it again under the lock.
    """
    host = host or this_host()
    if not pending(host.folder):
        return ()
    try:
        with StateLock(host.folder, seconds=0):
            return replay(host)
    except Busy:
        return ()
    except (HostIoError, OSError) as error:
        return (Restored(host.folder, "", "", str(error)),)


def restore_all(host: Host | None = None) -> tuple[Restored, ...]:
    """``vmrun host restore``: as :func:`recover`, and what was bound by hand as well.  Idempotent."""
    host = host or this_host()
    if not pending(host.folder):
        return ()
    with StateLock(host.folder):
        wait_for_the_dying(host)
        return replay(host, by_hand=True)


def replay(host: Host, *, by_hand: bool = False) -> tuple[Restored, ...]:
    """Undo each journal whose owner is dead.  Call under the StateLock."""
    done: list[Restored] = []
    lent = journal.living(host.folder)
    for found in journal.journals(host.folder):
        if found.file is None:
            continue  # its owner lives
        if found.journal is None:
            done.append(Restored(found.path, "", "", UNREADABLE))
            found.file.leave()
        elif found.journal.boot != journal.boot_id(host.sysfs):
            found.file.remove()  # the boot that it speaks of is over, and its drivers with it
        elif found.journal.keep and not by_hand:
            found.file.leave()
        else:
            done += undo(host, found.journal.vm, found.journal.bindings, found.file, lent)
    return tuple(done)


def undo(
    host: Host,
    vm: str,
    was: Sequence[Binding],
    file: JournalFile,
    lent: Mapping[str, Journal] = MappingProxyType({}),  # noqa: B008
) -> tuple[Restored, ...]:
    """Give back in the reverse order.  The journal goes when all of it is done, and stays otherwise.

    ``lent``: what living runs have; that is not taken from them by an older journal.
    """
    done = [_undo_one(host, vm, one, lent.get(one.address)) for one in reversed(was)]
    if any(one.complaint for one in done):
        file.leave()
    else:
        file.remove()
    return tuple(done)


def _undo_one(host: Host, vm: str, was: Binding, holder: Journal | None) -> Restored:
    now = bind.binding_of(host.sysfs, was.address)
    if holder is not None:
        complaint = f"{was.address} is lent to {holder.vm} (process {holder.pid}); stop that machine first"
        return Restored(was.address, now.driver, vm, complaint)
    user = host.group_user(was.group) if now.driver == VFIO_DRIVER != was.driver else ""
    if user:
        return Restored(was.address, was.driver, vm, f"{was.address} is still used by {user}")
    back = bind.give_back(host.sysfs, was)
    gone = not host.sysfs.exists(f"{bind.DEVICES}/{was.address}")
    return Restored(was.address, was.driver, vm, back.complaint, gone, back.note)
