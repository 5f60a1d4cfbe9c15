"""The host's side of passthrough against the real driver core: the lab's card reader and disk."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner.definition.model import DeviceEntry, Json
from runner.errors import HostPermissionError
from runner.graph.encode import from_json, to_json
from runner.host.passthrough.by_hand import bind_by_hand, unbind_by_hand
from runner.host.passthrough.host import Host, this_host
from runner.host.passthrough.recovery import recover, restore_all
from runner.host.passthrough.transaction import Prepared, prepare
from runner.host.passthrough.users import group_user, holder_of
from runner.host.survey import survey
from runner.host.sysfs import HostSysfs
from runner.host.vfio import Container, VfioDevice
from runner.hostfacts import HostFacts, PciFacts
from runner.lending.findings import Refused

pytestmark = pytest.mark.vfio

RAM = ((0, 256 << 20),)


@pytest.fixture
def facts() -> HostFacts:
    return survey(qemu_version=False)


@pytest.fixture
def reader(facts: HostFacts) -> PciFacts:
    return only(facts, "1b36", "0007")


@pytest.fixture
def disk(facts: HostFacts) -> PciFacts:
    """The NVMe disk on the root bus."""
    return next(one for one in facts.pci if one.class_code == "010802" and not one.parent)


def only(facts: HostFacts, vendor: str, device: str) -> PciFacts:
    (found,) = [one for one in facts.pci if (one.vendor, one.device) == (vendor, device)]
    return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """The host itself with a journal folder of the test; whatever a test leaves is undone."""
    host = this_host()._replace(folder=str(tmp_path / "state"))
    yield host
    restore_all(host)


def entry(function: PciFacts, **options: Json) -> DeviceEntry:
    return DeviceEntry("devices", "it", "vfio", {"host": function.address, **options})


def lend(host: Host, facts: HostFacts, *functions: PciFacts) -> Prepared:
    entries = [entry(one, allow_no_reset=True) for one in functions]
    return prepare(entries, facts, RAM, vm="lab-test", host=host)


def state(*functions: PciFacts) -> list[tuple[str, str]]:
    fresh = {one.address: one for one in survey(qemu_version=False).pci}
    return [(fresh[one.address].driver, fresh[one.address].driver_override) for one in functions]


def in_child(body: Callable[[], object]) -> int:
    """Run it in a process of its own; returns the exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_survey_sees_the_lab_as_it_is(facts: HostFacts, reader: PciFacts, disk: PciFacts) -> None:
    """KVM that runs stock kernels, an IOMMU that remaps interrupts, and both devices with their facts."""
    assert (facts.kvm.usable, facts.iommu, facts.interrupt_remapping) == (True, True, True)
    assert {"vfio_pci", "vfio_iommu_type1"} <= set(facts.modules)
    assert facts.iova_bits == 39
    assert (reader.driver, reader.reset_methods, reader.msi_vectors) == ("sdhci-pci", (), 0)
    assert (disk.driver, disk.reset_methods) == ("nvme", ("flr",))
    assert disk.msix_vectors > 0
    assert disk.bars[0].kind == "mem64"
    assert from_json(HostFacts, to_json(facts)) == facts


def test_reader_is_lent_and_comes_back(host: Host, facts: HostFacts, reader: PciFacts) -> None:
    """The group's node appears, and afterwards sdhci-pci has the reader and no override is left."""
    with lend(host, facts, reader) as prepared:
        (lent,) = prepared.lent
        assert Path(lent.node).is_char_device()
        assert state(reader) == [("vfio-pci", "vfio-pci")]
    assert state(reader) == [("sdhci-pci", "")]
    assert not Path(lent.node).exists()


def test_bus_can_be_reset_by_whoever_has_all_of_it(host: Host, facts: HostFacts, reader: PciFacts) -> None:
    """The kernel's own answers: the bus below a port with its group, never the root bus.  (The reset
    itself is not done: the link of QEMU's port stays down after it.)
    """
    (below,) = [one for one in facts.pci if one.class_code == "010802" and one.parent]
    vfio = Path("/dev/vfio/vfio")
    with ExitStack() as keep:
        prepared = keep.enter_context(lend(host, facts, below, reader))
        container = Container(keep.enter_context(vfio.open("r+b", buffering=0)).fileno())
        groups, devices = {}, []
        for one in prepared.lent:
            group = groups[one.group] = os.open(one.node, os.O_RDWR | os.O_CLOEXEC)
            keep.callback(os.close, group)
            container.add(group, one.name)
            keep.callback(container.close)
            devices.append(VfioDevice(group, one.address))
            keep.callback(devices[-1].close)
        alone, wired = devices
        assert (alone.can_reset, wired.can_reset) == (True, False)
        assert alone.reset()
        alone.can_reset = False
        assert alone.resets(groups)
        assert not alone.resets({reader.iommu_group or 0: groups[prepared.lent[1].group]})
        assert not wired.resets(groups)
        assert not wired.bus_reset(groups)
    assert state(below, reader) == [("nvme", ""), ("sdhci-pci", "")]


def test_two_functions_at_once(host: Host, facts: HostFacts, reader: PciFacts, disk: PciFacts) -> None:
    """Both are lent, with a group each."""
    with lend(host, facts, reader, disk) as prepared:
        assert len(prepared.groups) == 2
        assert state(reader, disk) == [("vfio-pci", "vfio-pci")] * 2
    assert state(reader, disk) == [("sdhci-pci", ""), ("nvme", "")]


class DiesAt(HostSysfs):
    """The host's files, for a process that kills itself right before its ``last``-th write."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._left = last

    def write(self, path: str, text: str) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        super().write(path, text)


def test_killed_before_each_write_the_next_start_restores(
    host: Host, facts: HostFacts, reader: PciFacts, disk: PciFacts
) -> None:
    """SIGKILL before the first write, between any two, and after the last."""
    before = state(reader, disk)
    codes = []
    for point in range(20):
        dying = host._replace(sysfs=DiesAt(point))
        codes.append(in_child(lambda dying=dying: lend(dying, facts, reader, disk).restore()))
        recover(host)
        assert state(reader, disk) == before, f"killed before write {point}"
        assert os.listdir(host.folder) == ["lock"]
        if codes[-1] == 0:
            break
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert len(codes) > 12


def test_killed_while_lent(host: Host, facts: HostFacts, reader: PciFacts) -> None:
    """A run that is killed leaves the reader on vfio-pci; the next start gives it back."""

    def run() -> None:
        lend(host, facts, reader)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(run) == -signal.SIGKILL
    assert state(reader) == [("vfio-pci", "vfio-pci")]
    assert [(one.address, one.complaint) for one in recover(host)] == [(reader.address, "")]
    assert state(reader) == [("sdhci-pci", "")]


def test_an_open_group_is_seen_and_named(host: Host, facts: HostFacts, reader: PciFacts) -> None:
    """A second open is EBUSY, and the one who has it is named."""
    with lend(host, facts, reader) as prepared:
        node = prepared.lent[0].node
        assert group_user(reader.iommu_group, seconds=0.1) == ""
        fd = os.open(node, os.O_RDWR)
        assert group_user(reader.iommu_group, seconds=0.1) == holder_of(node)
        assert f"process {os.getpid()} " in holder_of(node)
        os.close(fd)


def test_bind_and_unbind_by_hand(host: Host, facts: HostFacts, reader: PciFacts) -> None:
    """Bound by hand the reader stays until it is unbound."""
    assert bind_by_hand(reader.address, facts, host)
    assert recover(host) == ()
    assert state(reader) == [("vfio-pci", "vfio-pci")]
    assert [one.complaint for one in unbind_by_hand(reader.address, survey(qemu_version=False), host)] == [""]
    assert state(reader) == [("sdhci-pci", "")]


def refusal(host: Host, facts: HostFacts, function: PciFacts, **options: Json) -> Refused:
    """The refusal, after having seen that nothing was changed."""
    before = state(function)
    with pytest.raises(Refused) as refused:
        prepare([entry(function, **options)], facts, RAM, vm="lab-test", host=host)
    assert state(function) == before
    return refused.value


def rules(refused: Refused) -> set[str]:
    return {one.rule for one in refused.findings}


def test_reader_without_reset_is_refused_unless_allowed(
    host: Host, facts: HostFacts, reader: PciFacts
) -> None:
    """The reader has no reset, and the definition has to say that it knows."""
    assert rules(refusal(host, facts, reader)) == {"no-reset"}


def test_what_holds_the_root_is_refused(host: Host, facts: HostFacts) -> None:
    """The function behind the file system that we run from, and the host bridge."""
    root = next(one for one in facts.pci if any(use.startswith("mount") for use in one.uses))
    assert "in-use" in rules(refusal(host, facts, root, allow_no_reset=True))
    assert rules(refusal(host, facts, facts.pci[0])) == {"host-bridge"}


def test_a_disk_that_is_swap_is_refused(host: Host, facts: HostFacts, disk: PciFacts) -> None:
    """sysfs and an exclusive open both tell of it."""
    (node,) = Path(f"/sys/bus/pci/devices/{disk.address}/nvme").glob("nvme*/nvme*n1")
    device = f"/dev/{node.name}"
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    subprocess.run(["swapon", device], check=True)
    try:
        assert rules(refusal(host, facts, disk)) == {"in-use", "claimed"}
    finally:
        subprocess.run(["swapoff", device], check=True)
    lend(host, facts, disk).restore()


def test_an_ordinary_user_is_refused(reader: PciFacts) -> None:
    """Without root: the status of a missing permission, and no write."""
    mine = survey(qemu_version=False)._replace(euid=65534)
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)

    def as_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        host = this_host()._replace(folder=f"{folder}/state")
        with pytest.raises(HostPermissionError):
            prepare([entry(reader, allow_no_reset=True)], mine, (), vm="lab-test", host=host)

    assert in_child(as_nobody) == 0
    assert state(reader) == [("sdhci-pci", "")]
