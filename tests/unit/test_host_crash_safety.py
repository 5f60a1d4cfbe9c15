"""The journal of lent functions where the host itself fails: full disks, two runs at once, unplugging."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.definition.model import DeviceEntry
from runner.errors import HostError, HostIoError, HostPermissionError, UsageError
from runner.host.passthrough import transaction
from runner.host.passthrough.by_hand import bind_by_hand, unbind_by_hand
from runner.host.passthrough.host import Host
from runner.host.passthrough.recovery import recover, restore_all
from runner.host.passthrough.transaction import prepare
from runner.host.passthrough.users import holder_of
from runner.lending.findings import Refused
from tests.unit.driver_core import DriverCore
from tests.unit.lending import (
    ENTRIES,
    NVME,
    ODD,
    RAM,
    READER,
    facts_of,
    host_of,
    in_memory,
    journal_names,
    lend,
    made_core,
    made_host,
    make_core,
    run_in_child,
)

tmp_path, core, host = in_memory, made_core, made_host


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- a full or broken disk


def half_then_full() -> Callable[[int, bytes], int]:
    """write(2) that takes ten bytes and then finds the disk full."""
    write, calls = os.write, iter((10,))

    def short(fd: int, data: bytes) -> int:
        room = next(calls, None)
        return write(fd, data[:room]) if room else full()

    return short


@pytest.mark.parametrize(
    ("call", "broken"),
    [
        ("write", lambda: full),
        ("write", half_then_full),
        ("rename", lambda: full),
        ("fsync", lambda: full),
    ],
)
def test_journal_that_cannot_be_written_changes_nothing(
    core: DriverCore,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    broken: Callable[[], Callable[..., int]],
) -> None:
    """Wherever the disk runs full: no driver is changed, no piece of a journal is left, and it is said."""
    monkeypatch.setattr(os, call, broken())
    with pytest.raises(HostIoError, match=r"cannot be written: No space left .*no driver was changed"):
        lend(host, core)
    assert core.writes == []
    assert journal_names(host) == []


def test_journal_whose_name_is_not_durable_is_none(
    core: DriverCore, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fsync is the folder's: when it fails the journal has its name already, and goes again."""
    fsync, calls = os.fsync, iter((True,))
    monkeypatch.setattr(os, "fsync", lambda fd: fsync(fd) if next(calls, None) else full())
    with pytest.raises(HostIoError, match="no driver was changed"):
        lend(host, core)
    assert core.writes == []
    assert journal_names(host) == []


def test_full_disk_keeps_no_function_from_its_driver(
    core: DriverCore, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving back needs no room: neither at the end of the run nor at the next start."""
    before = core.state()
    run_in_child(lambda: lend(host, core))
    monkeypatch.setattr(os, "pwrite", full)
    assert {one.address for one in recover(host)} == {READER, NVME, ODD}
    assert core.state() == before
    prepared = lend(host, core)
    monkeypatch.setattr(os, "write", full)
    assert not [one for one in prepared.restore() if one.complaint]
    assert core.state() == before


def test_journal_that_cannot_be_removed_is_followed_again(
    core: DriverCore, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is back all the same, and once more is no more than that."""
    before = core.state()
    prepared = lend(host, core)
    unlink = os.unlink
    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", lambda path: full() if "/state/" in str(path) else unlink(path))
        assert not [one for one in prepared.restore() if one.complaint]
        assert core.state() == before
    writes = len(core.writes)
    assert not [one for one in recover(host) if one.complaint]
    assert core.writes[writes:] == []
    assert journal_names(host) == []


def test_lock_that_cannot_be_opened_is_said(core: DriverCore, host: Host) -> None:
    """A file error and not a traceback, and nothing changed."""
    os.makedirs(f"{host.folder}/lock")
    with pytest.raises(HostIoError, match=r"lock .* cannot be opened: Is a directory; no driver was changed"):
        lend(host, core)
    assert core.writes == []


def test_journal_that_cannot_be_opened_stops_everything(core: DriverCore, host: Host) -> None:
    """Nobody knows what it speaks of: a run is refused, a start without devices is told."""
    os.makedirs(f"{host.folder}/1-00.json", mode=0o700)
    os.chmod(host.folder, 0o700)
    with pytest.raises(HostIoError, match=r"1-00.json cannot be read: Is a directory"):
        lend(host, core)
    (told,) = recover(host)
    assert "1-00.json cannot be read" in told.complaint
    assert core.writes == []


@pytest.mark.parametrize(("key", "value"), [("address", "../../../kernel"), ("driver", "../../x")])
def test_journal_with_a_path_for_a_name_is_none(core: DriverCore, host: Host, key: str, value: str) -> None:
    """Address and driver become parts of paths that are written to."""
    run_in_child(lambda: lend(host, core))
    path = Path(host.folder) / journal_names(host)[0]
    text, old = path.read_text(), {"address": READER, "driver": "rtsx_pci"}[key]
    path.write_text(text.replace(f'"{key}": "{old}"', f'"{key}": "{value}"'))
    assert value in path.read_text()
    (told,) = recover(host)
    assert "no journal of this version" in told.complaint


def with_binding(**words: Any) -> dict[str, Any]:
    return {"bindings": [{"address": READER, "driver": "rtsx_pci", "override": "", "group": 7, **words}]}


@pytest.mark.parametrize("change", [
    {"vm": 7}, {"pid": "7"}, {"started": None}, {"boot": []}, {"keep": 1}, {"more": 1}, {"bindings": None},
    {"bindings": [7]}, {"format": 2}, with_binding(address=7), with_binding(driver=None),
    with_binding(driver=".."), with_binding(override=["x"]), with_binding(override="a\nb"),
    with_binding(group="7"), with_binding(group=True), with_binding(more=1),
])  # fmt: skip
def test_journal_of_the_wrong_shape_is_none(core: DriverCore, host: Host, change: dict[str, Any]) -> None:
    """Every field has its type, since each is used before anybody has looked at it: the start goes on."""
    run_in_child(lambda: lend(host, core, ENTRIES[:1]))
    path = Path(host.folder) / journal_names(host)[0]
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, **change}))
    writes = len(core.writes)
    (told,) = recover(host)
    assert told.words() == (
        f"{path}: it is no journal of this version of vmrun: what it names is brought back by hand "
        "(vmrun host unbind ADDRESS), then the file can go"
    )
    assert core.writes[writes:] == []
    assert path.exists()
    assert [one.complaint for one in unbind_by_hand(READER, facts_of(core), host)] == [""]
    assert core.driver(READER) == "rtsx_pci"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format":' * 100_000, "7", "[]", "\x00", ""])
def test_journal_that_is_no_json_object_is_none(core: DriverCore, host: Host, text: str) -> None:
    """However deep: another machine starts all the same."""
    with lend(host, core, ENTRIES[1:]):
        path = Path(host.folder) / "1-00.json"
        path.write_text(text)
        assert [one.address for one in recover(host)] == [str(path)]
        with lend(host, core, ENTRIES[:1]) as prepared:
            assert [one.address for one in prepared.recovered] == [str(path)]


def test_user_of_a_group_that_ends_while_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its descriptors were seen, its name is gone: the search goes on."""
    ours = tmp_path / "group"
    opened = builtins.open

    def gone(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path) == f"/proc/{os.getpid()}/comm":
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return opened(path, *rest, **more)

    with opened(ours, "w"):
        assert holder_of(str(ours)).startswith(f"process {os.getpid()} (")
        monkeypatch.setattr(builtins, "open", gone)
        assert holder_of(str(ours)) == "a process of another user"


# ---- two at once


def test_of_runs_at_the_same_moment_one_has_the_function(core: DriverCore, host: Host) -> None:
    """Four processes start together: one lends, three are told who has it, nothing is mixed up."""
    before = core.state()
    go, gone = os.pipe(), os.pipe()
    children = [contender(core, host, go, gone) for _ in range(4)]
    os.close(go[0])
    os.close(gone[1])
    os.close(go[1])  # now
    said = b""
    while len(said) < 4:
        said += os.read(gone[0], 4)
    lent = core.state()
    for pid, let_go in children:
        os.close(let_go)
        os.waitpid(pid, 0)
    os.close(gone[0])
    assert sorted(said) == sorted(b"LRRR")
    assert lent[READER] == ("vfio-pci", "vfio-pci")
    assert core.state() == before
    assert journal_names(host) == []


def contender(core: DriverCore, host: Host, go: tuple[int, int], gone: tuple[int, int]) -> tuple[int, int]:
    """A process that waits for the start, tries, says L(ent) or R(efused), and waits to be let go."""
    held = os.pipe()
    pid = os.fork()
    if pid:
        os.close(held[0])
        return pid, held[1]
    try:
        os.close(go[1])
        os.close(held[1])
        os.read(go[0], 1)
        try:
            prepared = lend(host, core, ENTRIES[:1])
        except Refused as refused:
            os.write(gone[1], b"R" if "is lent to cardreader" in str(refused) else b"?")
        else:
            os.write(gone[1], b"L")
            os.read(held[0], 1)
            prepared.restore()
    finally:
        os._exit(0)


def test_group_that_a_run_has_goes_to_no_other(core: DriverCore, host: Host) -> None:
    """Its other function has no driver now, so it looks free; by hand it may be bound, which hurts nobody."""
    other = "0000:01:00.1"
    core.add_function(other, group=7, vendor="0x8086")
    entries = (DeviceEntry("devices", "other", "vfio", {"host": other}),)
    with lend(host, core, ENTRIES[:1]):
        writes = len(core.writes)
        with pytest.raises(
            Refused, match=f"{other} shares IOMMU group 7 with {READER}, which is lent to cardreader"
        ):
            lend(host, core, entries)
        assert len(core.writes) == writes
        assert bind_by_hand(other, facts_of(core), host)
        assert [one.complaint for one in unbind_by_hand(other, facts_of(core), host)] == [""]


def renamed(host: Host, name: str) -> None:
    """Give the only journal a name, so that the order of two is known."""
    os.rename(f"{host.folder}/{journal_names(host)[0]}", f"{host.folder}/{name}.json")


@pytest.mark.parametrize("name", ["0", "zzz"])
def test_what_was_bound_by_hand_is_not_pulled_away_from_a_run(
    core: DriverCore, host: Host, name: str
) -> None:
    """Before its group is open nobody but the journal knows that a run has it, whichever is read first."""
    run_in_child(lambda: bind_by_hand(READER, facts_of(core), host))
    renamed(host, name)
    with lend(host, core, ENTRIES[:1]):
        with pytest.raises(HostError, match="is lent to cardreader"):
            unbind_by_hand(READER, facts_of(core), host)
        complaints = [one.complaint for one in restore_all(host)]
        assert complaints == [
            f"{READER} is lent to cardreader (process {os.getpid()}); stop that machine first"
        ]
        assert core.driver(READER) == "vfio-pci"
    assert not [one for one in restore_all(host) if one.complaint]
    assert core.driver(READER) == "rtsx_pci"


def test_old_journal_takes_nothing_from_a_new_run(core: DriverCore, host: Host) -> None:
    """A function whose driver was unloaded is lent anew: the next start leaves it to that run."""
    run_in_child(lambda: lend(host, core, ENTRIES[:1]))
    (core.tree / "sys/bus/pci/drivers/rtsx_pci").rmdir()
    with lend(host, core, ENTRIES[:1]):
        core.add_driver("rtsx_pci")
        assert ["is lent to cardreader" in one.complaint for one in recover(host)] == [True]
        assert core.driver(READER) == "vfio-pci"
    assert not [one for one in recover(host) if one.complaint]
    assert core.driver(READER) == "rtsx_pci"
    assert journal_names(host) == []


def test_facts_are_read_anew_under_the_lock(core: DriverCore, host: Host) -> None:
    """What has become true since the plan was made counts: here it has become the boot display."""
    facts = facts_of(core)
    (core.tree / "sys/bus/pci/devices" / READER / "boot_vga").write_text("1\n")
    with pytest.raises(Refused, match="display that the host booted on"):
        prepare(ENTRIES[:1], facts, RAM, vm="cardreader", host=host)
    assert core.writes == []


# ---- functions that disappear


def test_unplugged_at_any_write_the_others_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every k: the reader vanishes before the k-th write; the others are as before, nothing is left."""
    monkeypatch.setattr(transaction, "NODE_SECONDS", 0.05)  # for a node that never comes
    for point in range(24):
        work = tmp_path / str(point)
        work.mkdir()
        before = make_core(work / "host").state()
        core = DriverCore(work / "host", unplug_before(point, work / "host"))
        host = host_of(core, work)
        with contextlib.suppress(HostIoError), lend(host, core):
            pass
        state = core.state()
        reader = state.pop(READER, None)
        assert state == {address: before[address] for address in (NVME, ODD)}, f"unplugged before {point}"
        assert journal_names(host) == []
        if reader is not None:
            assert point == len(core.writes)
            return
    raise AssertionError("there are more writes than that?")


def unplug_before(point: int, root: Path) -> Callable[[int, str], None]:
    def hook(number: int, path: str) -> None:
        link = root / "sys/bus/pci/devices" / READER
        if number == point:
            (link / "driver").unlink(missing_ok=True)
            link.unlink()

    return hook


def test_unplugged_before_the_first_write_is_said(core: DriverCore, host: Host) -> None:
    """Between the look and the write."""
    link = core.tree / "sys/bus/pci/devices" / READER
    vanishing = host._replace(block_user=lambda _node: "", group_user=lambda _group: "")
    facts = facts_of(core)
    core.put(f"/sys/devices/pci0000:00/{READER}/block/card/dev", "259:0")
    core.link("/sys/class/block/card", f"/sys/devices/pci0000:00/{READER}/block/card")
    vanishing = vanishing._replace(block_user=lambda _node: link.unlink() or "")
    with pytest.raises(HostIoError, match=f"{READER} is not there any more") as error:
        prepare(ENTRIES[:1], facts, RAM, vm="cardreader", host=vanishing)
    assert "unplugged" in error.value.hint
    assert core.writes == []


def test_unplugged_while_lent_is_told_so(core: DriverCore, host: Host) -> None:
    """It is not called given back, and the others are."""
    with lend(host, core) as prepared:
        (core.tree / "sys/bus/pci/devices" / READER).unlink()
        said = [one.words() for one in prepared.restore()]
    assert said == [
        f"{ODD} is back with no driver",
        f"{NVME} is back with nvme",
        f"{READER} is not there any more, so it cannot be given back",
    ]


def test_somebody_who_unbinds_at_the_same_moment_is_no_failure(tmp_path: Path) -> None:
    """Both want it away from vfio-pci: whoever is second, it goes on to its own driver."""
    before = make_core(tmp_path / "host").state()
    armed: list[bool] = []

    def unbound(_number: int, path: str) -> None:
        if armed and path.endswith(f"{READER}/driver/unbind"):
            (core.tree / "sys/bus/pci/devices" / READER / "driver").unlink()

    core = DriverCore(tmp_path / "host", unbound)
    host = host_of(core, tmp_path)
    with lend(host, core) as prepared:
        armed.append(True)
        assert not [one for one in prepared.restore() if one.complaint]
    assert core.state() == before


# ---- by hand, with wrong words


def test_word_that_is_no_address_is_told_so(core: DriverCore, host: Host) -> None:
    """A misspelt word is a wrong command, and not a host that lacks a device."""
    for act in (bind_by_hand, unbind_by_hand):
        with pytest.raises(UsageError, match="'reader' is no PCI address") as error:
            act("reader", facts_of(core), host)
        assert "0000:01:00.0" in error.value.hint
        with pytest.raises(HostError, match=f"no PCI function 0000:09:00.0; there is {READER} "):
            act("0000:09:00.0", facts_of(core), host)


def test_unbind_without_root_says_sudo(core: DriverCore, host: Host) -> None:
    """What root has bound, root's journal knows of."""
    run_in_child(lambda: bind_by_hand(READER, facts_of(core), host))
    mine = host._replace(folder=f"{host.folder}-of-another")
    with pytest.raises(HostPermissionError) as error:
        unbind_by_hand(READER, facts_of(core)._replace(euid=1000), mine)
    assert error.value.hint == f"sudo vmrun host unbind {READER}"
    assert core.driver(READER) == "vfio-pci"
