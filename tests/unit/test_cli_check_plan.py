"""``vmrun check`` and the planner: what only the layout shows is told before a run ends with it."""

from __future__ import annotations

from pathlib import Path

from runner.cli.check_plan import refused
from runner.definition.findings import Complaint
from runner.definition.load import loads
from runner.hostfacts import HostFacts, KvmFacts, QemuFacts
from tests.cli.test_frame import vmrun

GOOD = 'kernel = { deb = "linux-image-cloud-amd64" }\nserial = "off"\n'
KVM, QEMU = KvmFacts(present=True, usable=True), QemuFacts("/q", "7.2")
DISKS = "".join(f'[disks.d{number}]\npath = "{number}"\nformat = "raw"\n' for number in range(32))


def told(text: str, facts: HostFacts) -> list[Complaint]:
    return list(refused(loads(GOOD + text), facts))


def test_a_full_bus_is_told_at_the_device_that_has_no_place() -> None:
    """An error, since every engine would end with it; one, and not one for each engine."""
    (found,) = told(DISKS, HostFacts(kvm=KVM, qemu=QEMU))
    assert (found.path, found.code, found.severity) == (("disks", "d31"), "layout", "error")
    assert found.message == "no slot is left on the PCI root bus for `d31`"
    assert "below a root port" in found.hint


def test_what_only_another_engine_of_the_list_refuses_is_a_warning() -> None:
    """31 disks fill the bus of our own engine; QEMU's chipset has a slot of it."""
    text = DISKS[: DISKS.index("[disks.d31]")]
    (found,) = told(text, HostFacts(kvm=KVM, qemu=QEMU))
    assert (found.path, found.severity) == (("disks", "d30"), "warning")
    assert found.message.startswith("the engine qemu could not run this: no slot is left")
    (found,) = told(text, HostFacts(qemu=QEMU))
    assert found.severity == "error"


def test_an_engine_that_lacks_a_part_is_not_asked_for_the_layout() -> None:
    """QEMU's chipset has the slot: that is told by itself, with the place of the slot."""
    text = '[net.a]\nslot = "00:1f.0"\n'
    assert told(text, HostFacts(kvm=KVM, qemu=QEMU)) == []
    assert told('engine = "qemu"\n' + text, HostFacts(qemu=QEMU)) == []


def test_what_names_no_device_is_told_of_the_file() -> None:
    """Memory beyond the processor's addresses: the whole of the machine, line 1."""
    (found,) = told('memory = "2T"\nengine = "kvm"\nrng = true\n', HostFacts(kvm=KVM, physical_bits=40))
    assert (found.path, found.severity) == ((), "error")


def test_what_can_be_laid_out_and_what_this_host_lacks_are_no_faults() -> None:
    """A device that is not here is the host's affair: `vmrun plan` tells of it."""
    assert told("rng = true\n", HostFacts(kvm=KVM, qemu=QEMU)) == []
    lent = '[devices.r]\ndriver = "vfio"\nmatch = { vendor = "10ec", device = "525a" }\n'
    assert told(lent, HostFacts(kvm=KVM)) == []


def test_check_tells_it_with_its_place(tmp_path: Path) -> None:
    """Through the command: at the header of the device, and not with --no-host."""
    (tmp_path / "x.toml").write_text(
        GOOD + 'engine = "kvm"\n' + DISKS.replace("path", "readonly = true\npath")
    )
    for number in range(32):
        (tmp_path / str(number)).write_bytes(bytes(512))
    done = vmrun("check", str(tmp_path / "x.toml"))
    assert done.returncode == 65
    assert "x.toml:128:8: error: no slot is left on the PCI root bus for `d31`" in done.stdout
    assert vmrun("check", "--no-host", str(tmp_path / "x.toml")).returncode == 0
