"""Lending a function to a guest is a transaction: killed anywhere, the next start undoes it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from runner.definition.model import DeviceEntry
from runner.errors import HostError, HostIoError
from runner.host.passthrough import journal, transaction
from runner.host.passthrough.by_hand import bind_by_hand, unbind_by_hand
from runner.host.passthrough.host import Host
from runner.host.passthrough.live import wait_for_the_dying
from runner.host.passthrough.recovery import recover, restore_all
from runner.host.passthrough.state import StateLock
from runner.lending.findings import Refused
from tests.unit.driver_core import DriverCore
from tests.unit.lending import (
    ENTRIES,
    NVME,
    ODD,
    OVERRIDDEN,
    READER,
    facts_of,
    host_of,
    in_memory,
    journal_names,
    lend,
    made_core,
    made_host,
    make_core,
    make_overridden,
    run_in_child,
)

tmp_path, core, host = in_memory, made_core, made_host


def test_functions_are_lent_and_come_back(core: DriverCore, host: Host) -> None:
    """While it lasts each function is on vfio-pci; afterwards driver and override are as before."""
    before = core.state()
    with lend(host, core) as prepared:
        assert {driver for driver, _ in core.state().values()} == {"vfio-pci"}
        assert prepared.groups == (7, 8, 9)
        assert [one.node for one in prepared.lent] == ["/dev/vfio/7", "/dev/vfio/8", "/dev/vfio/9"]
    assert core.state() == before
    assert journal_names(host) == []


def test_restore_twice_writes_once(core: DriverCore, host: Host) -> None:
    """restore is idempotent."""
    prepared = lend(host, core)
    prepared.restore()
    writes = len(core.writes)
    assert prepared.restore() == ()
    assert len(core.writes) == writes


def test_the_guest_is_reset_out_of_the_function_before_the_host_has_it(core: DriverCore, host: Host) -> None:
    """The reset is written while the function is still on vfio-pci, before its own driver sees it."""
    lend(host, core, ENTRIES[:1]).restore()
    names = [path.rpartition("/")[2] for path, _ in core.writes]
    assert names == [
        "driver_override",
        "unbind",
        "drivers_probe",
        "reset",
        "driver_override",
        "unbind",
        "bind",
        "driver_override",
    ]


def test_new_id_is_never_written(core: DriverCore, host: Host) -> None:
    """new_id would take every function of the kind."""
    lend(host, core).restore()
    assert not [path for path, _ in core.writes if "new_id" in path]


def test_journal_is_durable_before_the_first_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File and folder are fsynced, and the journal has its name, before sysfs is written to."""
    order: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    make_core(tmp_path / "host")
    core = DriverCore(tmp_path / "host", lambda number, path: order.append("write"))
    host = host_of(core, tmp_path)
    with lend(host, core):
        assert order.index("write") == 2
        assert order[:2] == ["fsync", "fsync"]
        assert len(journal_names(host)) == 1


# --- killed at every point


def killed_at(tmp_path: Path, point: int, body: Callable[[DriverCore], object]) -> int:
    """Fork a process that does ``body``, and ends without a word before its ``point``-th act.

    Acts are sysfs writes and the journal's own system calls.  Returns the child's exit code:
    9 when it was killed, 0 when it had no such point.
    """
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    acts = 0

    def act(*_: object) -> None:
        nonlocal acts
        if acts == point:
            os._exit(9)
        acts += 1

    try:
        for name in ("fsync", "rename", "unlink", "write", "pwrite"):
            setattr(os, name, acting(act, getattr(os, name)))
        body(DriverCore(tmp_path / "host", act))
    except BaseException:
        os._exit(1)
    os._exit(0)


def acting(act, call):  # type: ignore[no-untyped-def]
    def wrapped(*arguments):  # type: ignore[no-untyped-def]
        act()
        return call(*arguments)

    return wrapped


@pytest.mark.parametrize(("made", "entries"), [(make_core, ENTRIES), (make_overridden, OVERRIDDEN)])
def test_killed_at_any_point_the_next_start_restores(
    tmp_path: Path, made: Callable[[Path], DriverCore], entries: tuple[DeviceEntry, ...]
) -> None:
    """For every k: a run killed before its k-th act is undone by recover(), and leaves no journal; also
    where driver and override did not agree before.
    """
    points = 0
    while True:
        work = tmp_path / str(points)
        work.mkdir()
        core = made(work / "host")
        before = core.state()
        host = host_of(core, work)
        code = killed_at(work, points, lambda core, host=host: lend(on(host, core), core, entries).restore())
        recover(host)
        assert core.state() == before, f"killed before act {points}"
        assert journal_names(host) == [], f"killed before act {points}"
        if code == 0:
            break
        assert code == 9
        points += 1
    assert points >= 28  # eight writes there, thirteen back, and the journal's own


def on(host: Host, core: DriverCore) -> Host:
    """The same host by way of another model of its kernel."""
    return host._replace(sysfs=core)


def bind_again(host: Host) -> None:
    core = host.sysfs
    assert isinstance(core, DriverCore)
    bind_by_hand(READER, facts_of(core), host)
    assert core.driver(READER) == "vfio-pci"


@pytest.mark.parametrize("follow", [recover, bind_again])
def test_bind_by_hand_killed_at_any_point(tmp_path: Path, follow: Callable[[Host], object]) -> None:
    """For every k: a ``host bind`` that is killed is undone by the next start, or was done and stays; after
    either, and after a second bind, unbind brings back what was.
    """
    kept = 0
    for points in range(40):
        work = tmp_path / str(points)
        work.mkdir()
        core = make_core(work / "host")
        before, host = core.state(), host_of(core, work)
        code = killed_at(
            work, points, lambda core, host=host: bind_by_hand(READER, facts_of(core), on(host, core))
        )
        follow(host)
        bound = core.state()[READER] == ("vfio-pci", "vfio-pci")
        kept += bound
        assert bound or core.state() == before, f"killed before act {points}"
        assert len(journal_names(host)) == bound, f"killed before act {points}"
        assert {one.complaint for one in restore_all(host)} <= {""}
        assert core.state() == before, f"killed before act {points}"
        if code == 0:
            assert bound
            assert points >= 12  # three writes, two journals, and the lock
            assert follow is not recover or kept == 2  # once done nothing but the folder's fsync follows
            return
        assert code == 9
    raise AssertionError("there are more acts than that?")


def test_a_recovery_that_is_killed_is_recovered(tmp_path: Path) -> None:
    """For every pair: killed while lent, and killed again while undoing; the third start restores."""
    for point in range(20):
        work = tmp_path / str(point)
        work.mkdir()
        core = make_core(work / "host")
        before = core.state()
        run_in_child(lambda core=core, work=work: die_while_lent(core, work))
        run_in_child(lambda point=point, work=work: die_in_recovery(work, point))
        host = host_of(core, work)
        recover(host)
        assert core.state() == before
        assert journal_names(host) == []


def die_while_lent(core: DriverCore, work: Path) -> None:
    lend(host_of(core, work), core)


def die_in_recovery(work: Path, point: int) -> None:
    recover(host_of(DriverCore(work / "host", lambda number, path: number >= point and os._exit(9)), work))


def test_a_living_run_is_left_alone(core: DriverCore, host: Host) -> None:
    """recover() and restore_all() do not touch what a living run has."""
    with lend(host, core):
        lent = core.state()
        assert recover(host) == ()
        assert restore_all(host) == ()
        assert core.state() == lent


def test_a_run_whose_vm_process_lives_is_not_dead(core: DriverCore, host: Host, tmp_path: Path) -> None:
    """The VM process inherits the journal's lock: with its supervisor killed nothing is pulled away."""
    read, write = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        lend(host, core)
        if os.fork() == 0:  # the VM process: waits until the test lets it go
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os._exit(9)
    os.close(read)
    os.waitpid(supervisor, 0)
    assert recover(host) == ()
    assert core.driver(READER) == "vfio-pci"
    os.close(write)
    wait_until_free(host)
    assert {one.address for one in recover(host)} == {READER, NVME, ODD}
    assert core.driver(READER) == "rtsx_pci"


def killed_with_a_vm_process(core: DriverCore, host: Host, pipe: tuple[int, int]) -> int:
    """A supervisor that has lent the reader and was killed; its VM process ends when ``pipe`` does.

    Returns the supervisor's pid, which has not been reaped.
    """
    supervisor = os.fork()
    if supervisor == 0:
        core.put(f"/proc/{os.getpid()}/stat", status(os.getpid(), "S"))
        lend(host, core, ENTRIES[:1])
        if os.fork() == 0:
            os.close(pipe[1])
            os.read(pipe[0], 1)
            os._exit(0)
        os._exit(9)
    os.waitid(os.P_PID, supervisor, os.WEXITED | os.WNOWAIT)
    core.put(f"/proc/{supervisor}/stat", status(supervisor, "Z"))
    return supervisor


def status(pid: int, state: str) -> str:
    """/proc/PID/stat of a process with a name that could mislead."""
    return f"{pid} (a) b) {state} {' '.join(['0'] * 18)} 4711 0\n"


@pytest.mark.parametrize("next_act", [
    lambda host, core: lend(host, core, ENTRIES[:1]).restore(),
    lambda host, core: unbind_by_hand(READER, facts_of(core), host),
    lambda host, core: restore_all(host),
    lambda host, core: bind_by_hand(READER, facts_of(core), host) and restore_all(host),
])  # fmt: skip
@pytest.mark.parametrize("reaped", [True, False])
def test_a_vm_process_that_is_dying_is_waited_for(
    core: DriverCore, host: Host, next_act: Callable[[Host, DriverCore], object], reaped: bool
) -> None:
    """Right after SIGKILL of a supervisor its VM process still has the devices, for as long as it takes to
    unpin its memory: whoever wants them then does not have to try again.
    """
    read, write = os.pipe()
    before = core.state()
    pid = os.fork()
    if pid == 0:  # lets the VM process go a little later
        os.close(read)
        time.sleep(0.3)
        os._exit(0)
    supervisor = killed_with_a_vm_process(core, host, (read, write))
    os.close(write)
    if reaped:
        (core.tree / f"proc/{supervisor}/stat").unlink()
    next_act(host, core)
    assert core.state() == before
    assert journal_names(host) == []
    for child in (supervisor, pid):
        os.waitpid(child, 0)
    os.close(read)


def test_a_vm_process_that_does_not_die_is_not_waited_for_without_end(
    core: DriverCore, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that there is no machine to stop any more, and where to look."""
    read, write = os.pipe()
    supervisor = killed_with_a_vm_process(core, host, (read, write))
    monkeypatch.setattr(transaction, "wait_for_the_dying", lambda host: wait_for_the_dying(host, 0.05))
    with pytest.raises(Refused, match=rf"whose supervisor \(process {supervisor}\) was killed") as refused:
        lend(host, core, ENTRIES[:1])
    assert refused.value.hint.endswith("fuser -v /dev/vfio/7")
    os.close(write)
    os.waitpid(supervisor, 0)
    os.close(read)


def wait_until_free(host: Host) -> None:
    for _ in range(500):
        found = list(journal.journals(host.folder))
        for one in found:
            if one.file:
                one.file.leave()
        if all(one.file for one in found):
            return
        os.sched_yield()


def test_a_function_in_use_is_not_pulled_away(core: DriverCore, host: Host) -> None:
    """Unbinding under an open group would block: recovery complains, and keeps the journal."""
    run_in_child(lambda: lend(host, core))
    busy = host._replace(group_user=lambda group: "process 812 (qemu)" if group == 7 else "")
    complaints = [one.complaint for one in recover(busy) if one.complaint]
    assert complaints == [f"{READER} is still used by process 812 (qemu)"]
    assert core.driver(READER) == "vfio-pci"
    assert len(journal_names(host)) == 1
    recover(host)
    assert core.driver(READER) == "rtsx_pci"


def test_a_journal_of_an_earlier_boot_is_forgotten(core: DriverCore, host: Host) -> None:
    """After a reboot the drivers are the kernel's choice, and an old journal does nothing."""
    run_in_child(lambda: lend(host, core))
    core.put("/proc/sys/kernel/random/boot_id", "22222222-boot\n")
    lent = core.state()
    assert recover(host) == ()
    assert core.state() == lent
    assert journal_names(host) == []


def test_a_damaged_journal_is_told_and_kept(core: DriverCore, host: Host) -> None:
    """What cannot be read is neither obeyed nor removed."""
    run_in_child(lambda: lend(host, core))
    path = Path(host.folder) / journal_names(host)[0]
    path.write_text('{"format": 1, "bindings": [{"address"')
    done = recover(host)
    assert [one.address for one in done] == [str(path)]
    assert "no journal of this version" in done[0].complaint
    assert path.exists()


def test_somebody_elses_later_driver_stays(core: DriverCore, host: Host) -> None:
    """A function that has been given to a third driver since is not taken from it."""
    run_in_child(lambda: lend(host, core))
    core.add_driver("uio_pci_generic")
    core.write(f"/sys/bus/pci/devices/{READER}/driver/unbind", READER)
    core.write(f"/sys/bus/pci/devices/{READER}/driver_override", "uio_pci_generic")
    core.write("/sys/bus/pci/drivers_probe", READER)
    recover(host)
    assert core.state()[READER] == ("uio_pci_generic", "uio_pci_generic")


def test_an_unplugged_function_is_no_complaint(core: DriverCore, host: Host) -> None:
    """What is gone needs no giving back."""
    run_in_child(lambda: lend(host, core))
    (core.tree / "sys/bus/pci/devices" / READER).unlink()
    assert [one.complaint for one in recover(host)] == ["", "", ""]
    assert journal_names(host) == []


def test_a_driver_that_was_unloaded_is_named(core: DriverCore, host: Host) -> None:
    """The complaint says which module to load, and after that restore works."""
    run_in_child(lambda: lend(host, core))
    (core.tree / "sys/bus/pci/drivers/rtsx_pci").rmdir()
    complaints = [one.complaint for one in recover(host) if one.complaint]
    assert complaints == [f"{READER} was on rtsx_pci, which is no longer loaded: modprobe rtsx_pci"]
    core.add_driver("rtsx_pci")
    assert not [one for one in restore_all(host) if one.complaint]
    assert core.driver(READER) == "rtsx_pci"


def test_somebody_elses_later_override_stays(core: DriverCore, host: Host) -> None:
    """A function that somebody has reserved since, and that has no driver, is told of and not touched."""
    run_in_child(lambda: lend(host, core, ENTRIES[:1]))
    core.write(f"/sys/bus/pci/devices/{READER}/driver/unbind", READER)
    core.write(f"/sys/bus/pci/devices/{READER}/driver_override", "uio_pci_generic")
    (told,) = recover(host)
    assert told.complaint == (
        f"rtsx_pci does not take {READER} back: somebody else has reserved it for uio_pci_generic "
        "(driver_override)"
    )
    assert core.state()[READER] == ("", "uio_pci_generic")


@pytest.mark.parametrize(("number", "words"), [
    (errno.EIO, "Input/output error (dmesg says more)"),
    (errno.ENODEV, "No such device"),
])  # fmt: skip
def test_a_driver_that_does_not_take_it_back(tmp_path: Path, number: int, words: str) -> None:
    """The errno in words; the log is pointed to only where the kernel has written to it."""
    make_core(tmp_path / "host")

    def refuses(_write: int, path: str) -> None:
        if path.endswith("rtsx_pci/bind"):
            raise OSError(number, os.strerror(number))

    core = DriverCore(tmp_path / "host", refuses)
    (told,) = lend(host_of(core, tmp_path), core, ENTRIES[:1]).restore()
    assert told.complaint == f"rtsx_pci does not take {READER} back: {words}"
    assert core.state()[READER] == ("", "")


def test_a_reset_that_fails_is_told_and_keeps_nothing_from_its_driver(tmp_path: Path) -> None:
    """What the guest has left in the function is then what its driver meets."""
    make_core(tmp_path / "host")

    def refuses(_write: int, path: str) -> None:
        if path.endswith("/reset"):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    core = DriverCore(tmp_path / "host", refuses)
    before, host = core.state(), host_of(core, tmp_path)
    (told,) = lend(host, core, ENTRIES[:1]).restore()
    assert told.words() == (
        f"{READER} is back with rtsx_pci; its reset failed: Inappropriate ioctl for device"
    )
    assert told.level == "warning"
    assert core.state() == before
    core.write(f"/sys/bus/pci/devices/{READER}/driver/unbind", READER)
    core.write(f"/sys/bus/pci/devices/{READER}/driver_override", "vfio-pci")
    core.write("/sys/bus/pci/drivers_probe", READER)
    (told,) = unbind_by_hand(READER, facts_of(core), host)
    assert (told.driver, told.complaint, told.level) == ("rtsx_pci", "", "warning")


@pytest.mark.parametrize(("write", "words"), [
    ("driver/unbind", "could not be taken from vfio-pci"),
    ("driver_override", "keeps a driver_override of ours"),
])  # fmt: skip
def test_a_write_back_that_fails_says_what_is_left(tmp_path: Path, write: str, words: str) -> None:
    """Which of the two is not as before, with the errno in words; the next start tries again."""
    make_core(tmp_path / "host")
    broken: list[bool] = []

    def refuses(_write: int, path: str) -> None:
        on = os.path.realpath(tmp_path / "host/sys/bus/pci/devices" / READER / "driver")
        if broken and path.endswith(write) and (write == "driver/unbind") == on.endswith("vfio-pci"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    core = DriverCore(tmp_path / "host", refuses)
    before, host = core.state(), host_of(core, tmp_path)
    prepared = lend(host, core, ENTRIES[:1])
    broken.append(True)
    (told,) = prepared.restore()
    assert told.complaint == f"{READER} {words}: Input/output error"
    broken.clear()
    recover(host)
    assert core.state() == before


# --- failures on the way


def test_a_driver_that_refuses_undoes_all(core: DriverCore, host: Host) -> None:
    """When vfio-pci does not take the second function the first one comes back too."""
    before = core.state()
    (core.tree / "sys/bus/pci/drivers/vfio-pci").rmdir()
    with pytest.raises(HostIoError, match="on no driver and not on vfio-pci"):
        lend(host, core)
    assert core.state() == before
    assert journal_names(host) == []


def test_a_write_error_says_errno_and_undoes(tmp_path: Path) -> None:
    """EBUSY at the unbind of the second function: in words, and everything as before."""
    make_core(tmp_path / "host")

    def busy(number: int, path: str) -> None:
        if path.endswith(f"{NVME}/driver/unbind"):
            raise OSError(16, "Device or resource busy")

    core = DriverCore(tmp_path / "host", busy)
    before = core.state()
    with pytest.raises(HostIoError, match=r"nvme does not let go of 0000:02:00.0: Device or resource busy"):
        lend(host_of(core, tmp_path), core)
    assert core.state() == before


def test_without_a_journal_nothing_is_written(core: DriverCore, tmp_path: Path) -> None:
    """A state folder on a read-only or full file system: refused before the first write."""
    (tmp_path / "file").write_text("")
    host = Host(core, str(tmp_path / "file" / "state"), lambda group: "", lambda node: "")
    with pytest.raises(HostIoError, match="no driver was changed"):
        lend(host, core)
    assert core.writes == []


def test_a_folder_that_others_may_write_is_refused(core: DriverCore, host: Host) -> None:
    """Journals become writes to sysfs, so nobody else may put one there."""
    os.makedirs(host.folder)
    os.chmod(host.folder, 0o777)
    with pytest.raises(HostIoError, match="can be written by somebody else"):
        lend(host, core)
    assert core.writes == []


def test_two_runs_want_one_function(core: DriverCore, host: Host) -> None:
    """The second one is told who has it."""
    with lend(host, core):
        writes = len(core.writes)
        with pytest.raises(Refused, match=f"is lent to cardreader \\(process {os.getpid()}\\)"):
            lend(host, core, ENTRIES[:1])
        assert len(core.writes) == writes


def test_a_claimed_disk_is_refused(core: DriverCore, host: Host) -> None:
    """An exclusive user that sysfs does not tell of (ZFS, say) is found by asking for the disk."""
    core.put(f"/sys/devices/pci0000:00/{NVME}/nvme/nvme0/nvme0n1/dev", "259:0")
    core.link("/sys/class/block/nvme0n1", f"/sys/devices/pci0000:00/{NVME}/nvme/nvme0/nvme0n1")
    claimed = host._replace(block_user=lambda node: f"{node} is in use")
    with pytest.raises(Refused, match="/dev/nvme0n1 is in use"):
        lend(claimed, core)
    assert core.writes == []


def test_the_lock_is_waited_for_only_so_long(host: Host) -> None:
    """A run that hangs while it changes drivers is named to the next one."""
    with StateLock(host.folder), pytest.raises(HostIoError, match=f"process {os.getpid()} has been"):
        StateLock(host.folder, seconds=0.05).__enter__()


def test_recovery_at_a_start_waits_for_nobody_and_never_raises(core: DriverCore, host: Host) -> None:
    """A machine without passthrough starts although another run changes drivers, or the folder is bad."""
    run_in_child(lambda: lend(host, core))
    with StateLock(host.folder):
        assert recover(host) == ()
    os.chmod(host.folder, 0o777)
    (told,) = recover(host)
    assert "can be written by somebody else" in told.complaint
    assert core.driver(READER) == "vfio-pci"


# --- by hand


def test_bind_by_hand_lasts_until_unbind(core: DriverCore, host: Host) -> None:
    """The next start does not undo it; unbind brings back what was."""
    before = core.state()
    run_in_child(lambda: bind_by_hand(READER, facts_of(core), host))
    assert core.driver(READER) == "vfio-pci"
    assert recover(host) == ()
    assert core.driver(READER) == "vfio-pci"
    assert [one.complaint for one in unbind_by_hand(READER, facts_of(core), host)] == [""]
    assert core.state() == before
    assert journal_names(host) == []


def test_bind_twice_by_hand_is_no_second_transaction(core: DriverCore, host: Host) -> None:
    """The second bind finds it done; the first one's memory of the driver stays."""
    assert bind_by_hand(READER, facts_of(core), host) is True
    assert bind_by_hand(READER, facts_of(core), host) is False
    assert [one.driver for one in unbind_by_hand(READER, facts_of(core), host)] == ["rtsx_pci"]
    assert core.driver(READER) == "rtsx_pci"


def test_restore_all_takes_back_what_was_bound_by_hand(core: DriverCore, host: Host) -> None:
    """vmrun host restore is the big broom, and a second sweep finds nothing."""
    before = core.state()
    bind_by_hand(READER, facts_of(core), host)
    assert [one.address for one in restore_all(host)] == [READER]
    assert core.state() == before
    assert restore_all(host) == ()


def test_unbind_follows_every_journal_that_names_the_function(core: DriverCore, host: Host) -> None:
    """Bound by hand, and lent then by a run that was killed: what was before both of them is what was."""
    before = core.state()
    run_in_child(lambda: bind_by_hand(READER, facts_of(core), host))
    run_in_child(lambda: lend(host, core, ENTRIES[:1]))
    assert len(journal_names(host)) == 2
    assert [(one.address, one.driver) for one in unbind_by_hand(READER, facts_of(core), host)] == [
        (READER, "rtsx_pci")
    ]
    assert core.state() == before
    assert journal_names(host) == []


def test_unbind_tells_of_all_that_a_killed_run_had(core: DriverCore, host: Host) -> None:
    """A journal is followed as a whole, and what does not come back of it is told."""
    run_in_child(lambda: lend(host, core, ENTRIES[:2]))
    (core.tree / "sys/bus/pci/drivers/nvme").rmdir()
    told = {one.address: one.complaint for one in unbind_by_hand(READER, facts_of(core), host)}
    assert told == {READER: "", NVME: f"{NVME} was on nvme, which is no longer loaded: modprobe nvme"}


def test_unbind_does_not_follow_a_journal_of_an_earlier_boot(core: DriverCore, host: Host) -> None:
    """Its drivers were of another kernel."""
    run_in_child(lambda: bind_by_hand(READER, facts_of(core), host))
    path = Path(host.folder) / journal_names(host)[0]
    path.write_text(path.read_text().replace('"rtsx_pci"', '"nvme"'))
    core.put("/proc/sys/kernel/random/boot_id", "22222222-boot\n")
    assert [one.driver for one in unbind_by_hand(READER, facts_of(core), host)] == ["rtsx_pci"]


def test_bind_judges_what_is_true_under_the_lock(core: DriverCore, host: Host) -> None:
    """What has become true since the survey counts: here it has become the boot display."""
    facts = facts_of(core)
    (core.tree / "sys/bus/pci/devices" / READER / "boot_vga").write_text("1\n")
    with pytest.raises(Refused, match="display that the host booted on"):
        bind_by_hand(READER, facts, host)
    assert core.writes == []


def test_bind_that_cannot_be_kept_is_undone(
    core: DriverCore, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is written anew once it is done; where the disk has run full by then all is put back."""
    before, rename, calls = core.state(), os.rename, iter((True,))

    def once(old: str, new: str) -> None:
        if not next(calls, None):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(old, new)

    monkeypatch.setattr(os, "rename", once)
    with pytest.raises(HostIoError, match="cannot be written: No space left"):
        bind_by_hand(READER, facts_of(core), host)
    assert core.state() == before
    assert os.listdir(host.folder) == ["lock"]


def test_unbind_without_a_journal_asks_the_kernel(core: DriverCore, host: Host) -> None:
    """A function that somebody else put on vfio-pci goes to the driver that wants it."""
    core.write(f"/sys/bus/pci/devices/{READER}/driver/unbind", READER)
    core.write(f"/sys/bus/pci/devices/{READER}/driver_override", "vfio-pci")
    core.write("/sys/bus/pci/drivers_probe", READER)
    assert [one.driver for one in unbind_by_hand(READER, facts_of(core), host)] == ["rtsx_pci"]
    assert core.state()[READER] == ("rtsx_pci", "")


def test_unbind_of_a_lent_function_is_refused(core: DriverCore, host: Host) -> None:
    """What a living machine uses is not pulled away by hand either."""
    with lend(host, core), pytest.raises(HostError, match="is lent to cardreader"):
        unbind_by_hand(READER, facts_of(core), host)


def test_a_function_bound_by_hand_is_lent_and_stays(core: DriverCore, host: Host) -> None:
    """A run leaves on vfio-pci what it found there."""
    bind_by_hand(READER, facts_of(core), host)
    with lend(host, core, ENTRIES[:1]) as prepared:
        (told,) = prepared.restore()
    assert told.words() == f"{READER} stays on vfio-pci, as it was"
    assert core.driver(READER) == "vfio-pci"


def test_a_function_on_vfio_already_is_not_written_to(core: DriverCore, host: Host) -> None:
    """There is nothing to take and nothing to give back."""
    bind_by_hand(READER, facts_of(core), host)
    writes = len(core.writes)
    with lend(host, core, ENTRIES[:1]):
        pass
    assert len(core.writes) == writes


def test_the_next_run_first_undoes_a_killed_one(core: DriverCore, host: Host) -> None:
    """Otherwise it would believe that vfio-pci is where the function came from."""
    before = core.state()
    run_in_child(lambda: lend(host, core))
    with lend(host, core, ENTRIES[:1]) as prepared:
        assert core.driver(NVME) == "nvme"
        assert {one.address for one in prepared.recovered} == {READER, NVME, ODD}
    assert core.state() == before
    assert journal_names(host) == []


def test_a_forked_child_does_not_give_back(core: DriverCore, host: Host) -> None:
    """The VM process has the same object, and its end is not the end of the run."""
    with lend(host, core) as prepared:
        run_in_child(prepared.restore)
        assert core.driver(READER) == "vfio-pci"


@pytest.fixture(autouse=True)
def no_descriptors_left() -> Iterator[None]:
    """A transaction closes what it opens, so that locks do not outlive it."""
    before = open_paths()
    yield
    left = [path for fd, path in open_paths().items() if fd not in before and "/state/" in path]
    assert left == []


def open_paths() -> Mapping[int, str]:
    paths = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            paths[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return paths
