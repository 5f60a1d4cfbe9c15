"""The doctor's advice on made-up hosts, and the two commands' output against their schemas."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import jsonschema
import pytest

from runner.cli import doctor
from runner.cli import host as host_command
from runner.graph.encode import from_json
from runner.graph.engines import REQUIRED_CAPABILITIES
from runner.host.diagnosis import Check, Surroundings, diagnose, engine_here
from runner.host.surroundings import surroundings
from runner.hostfacts import HostFacts, KvmFacts, PciFacts, QemuFacts
from tests.unit.driver_core import DriverCore

SCHEMAS = Path(__file__).parents[2] / "schemas/output"
ALL = tuple((name, 4096) for name in (*REQUIRED_CAPABILITIES, "KVM_CAP_IRQFD_RESAMPLE"))
PROGRAMS = ("passt", "virtiofsd", "qemu-storage-daemon", "qemu-img")
READER = PciFacts("0000:01:00.0", "10ec", "525a", class_code="ff0000", iommu_group=7, reset_methods=("flr",))
GOOD = HostFacts(
    kernel="6.1.0",
    memlock=None,
    thp="madvise",
    hugepages=((2 << 20, 8, 8),),
    kvm=KvmFacts(True, True, 12, "kvm_intel", True, "kvm_intel runs stock kernels", ALL, 1024),
    qemu=QemuFacts("/usr/bin/qemu-system-x86_64", "7.2.22"),
    iommu=True,
    interrupt_remapping=True,
    modules=("tun", "vfio", "vfio_iommu_type1", "vfio_pci", "vhost_net", "vhost_vsock"),
    devices=("/dev/kvm", "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/vfio/vfio"),
    programs=tuple(
        (name, f"/usr/bin/{name}") for name in ("passt", "virtiofsd", "qemu-storage-daemon", "qemu-img")
    ),
    cpu_vendor="intel",
    pci=(READER,),
)
DEBIAN = Surroundings(
    "ann",
    "debian",
    12,
    True,
    ("kvm_intel", "vfio_iommu_type1", "vfio_pci", "vhost_net", "vhost_vsock"),
    ("/dev/vhost-vsock", "/dev/vfio/vfio"),
)


def advice(key: str, around: Surroundings = DEBIAN, **changes: object) -> Check:
    """The check of that key on a good host with one thing changed."""
    facts = GOOD._replace(**changes)  # type: ignore[arg-type]
    return next(check for check in diagnose(facts, around) if check.key == key)


def test_a_good_host_needs_nothing() -> None:
    """Every line is ok, and none has advice."""
    assert {check.mark for check in diagnose(GOOD, DEBIAN)} == {"ok"}
    assert {check.mend for check in diagnose(GOOD, DEBIAN)} == {""}
    assert engine_here(GOOD) == "kvm"


@pytest.mark.parametrize(
    ("key", "changes", "mark", "mend"),
    [
        ("kvm", {"kvm": KvmFacts(why="there is no /dev/kvm")}, "missing", "modprobe kvm_intel"),
        ("kvm", {"kvm": KvmFacts(present=True, why="no")}, "missing", "usermod -aG kvm ann"),
        ("kvm-capabilities", {"kvm": GOOD.kvm._replace(capabilities=ALL[1:])}, "missing", "newer kernel"),
        ("kvm-capabilities", {"kvm": GOOD.kvm._replace(capabilities=ALL[:-1])}, "limited", "newer kernel"),
        ("qemu", {"qemu": QemuFacts()}, "limited", "apt-get install qemu-system-x86"),
        ("thp", {"thp": "never"}, "limited", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        ("hugepages", {"hugepages": ()}, "limited", "sysctl vm.nr_hugepages=NUMBER"),
        ("memlock", {"memlock": 8 << 20}, "limited", "'ann - memlock unlimited' >> /etc/security/"),
        ("vhost-net", {"devices": (), "modules": ()}, "limited", "modprobe vhost_net"),
        ("vhost-vsock", {"devices": ()}, "limited", "setfacl -m u:ann:rw /dev/vhost-vsock"),
        ("tun", {"devices": (), "modules": ()}, "limited", "this kernel comes without tun"),
        ("passt", {"programs": ()}, "limited", "apt-get install passt"),
        ("virtiofsd", {"programs": ()}, "limited", "apt-get install qemu-system-common"),
        ("qemu-img", {"programs": ()}, "limited", "apt-get install qemu-utils"),
        ("iommu", {"iommu": False}, "missing", "intel_iommu=on"),
        ("iommu", {"iommu": False, "cpu_vendor": "amd"}, "missing", "AMD-Vi"),
        ("interrupt-remapping", {"interrupt_remapping": False}, "limited", "intremap=off"),
        ("acs-override", {"acs_override": True}, "limited", "without pcie_acs_override"),
        ("vfio", {"modules": ()}, "missing", "modprobe -a vfio_pci vfio_iommu_type1"),
        ("vfio", {"devices": ()}, "missing", "chmod 0666 /dev/vfio/vfio"),
    ],
)  # fmt: skip
def test_advice_is_the_command_that_mends(key: str, changes: dict[str, object], mark: str, mend: str) -> None:
    """One thing missing is one line, with the exact command."""
    check = advice(key, **changes)
    assert check.mark == mark
    assert mend in check.mend


@pytest.mark.parametrize(
    ("key", "node", "minor"),
    [
        ("tun", "/dev/net/tun", 200),
        ("vhost-net", "/dev/vhost-net", 238),
        ("vhost-vsock", "/dev/vhost-vsock", 241),
        ("vfio", "/dev/vfio/vfio", 196),
    ],
)
def test_a_node_that_is_there_is_not_denied(key: str, node: str, minor: int) -> None:
    """There, not there, and there for others only are three things, whatever is loaded."""
    loaded = {} if key == "vfio" else {"modules": ()}
    closed = advice(key, DEBIAN._replace(nodes=(node,)), devices=(), **loaded)
    assert f"this user may not open {node}" in closed.what
    absent = advice(key, DEBIAN._replace(nodes=()), devices=())
    assert f"no {node}" in absent.what
    assert absent.mend.endswith(f"mknod {node} c 10 {minor}")


def test_a_kernel_without_landlock_has_a_row() -> None:
    """What reads qcow2 images is then kept from nothing."""
    check = advice("landlock", DEBIAN._replace(landlock=False))
    assert (check.mark, "lsm=" in check.mend) == ("limited", True)


def test_kvm_that_cannot_run_stock_kernels_is_missing_and_qemu_runs() -> None:
    """The doctor says which engine a run gets."""
    pvm = GOOD.kvm._replace(vendor_module="kvm_pvm", usable=False, why="kvm_pvm cannot")
    assert advice("kvm", kvm=pvm).mark == "missing"
    engine = advice("engine", kvm=pvm)
    assert (engine.mark, "engine qemu" in engine.what) == ("limited", True)


def test_a_host_without_any_engine_is_told_so() -> None:
    """Neither KVM nor QEMU."""
    facts = {"kvm": KvmFacts(why="no"), "qemu": QemuFacts()}
    assert advice("engine", **facts).what == "no machine runs here"
    assert advice("qemu", **facts).mark == "missing"


def test_no_module_helps_a_cpu_without_virtualization() -> None:
    """The advice is the firmware, or the host of this host."""
    mend = advice("kvm", Surroundings(), kvm=KvmFacts(why="there is no /dev/kvm")).mend
    assert "firmware" in mend
    assert "modprobe" not in mend


def test_a_distribution_that_we_do_not_know_gets_no_wrong_command() -> None:
    """Package names differ; then the program is named."""
    assert advice("passt", Surroundings(), programs=()).mend == "install the package that has passt"
    later = DEBIAN._replace(release=13)
    assert advice("virtiofsd", later, programs=()).mend == "apt-get install virtiofsd"


def test_surroundings_are_read(tmp_path: Path) -> None:
    """Distribution, CPU flags, the modules on disk and the nodes in /dev."""
    (tmp_path / "host").mkdir()
    core = DriverCore(tmp_path / "host")
    core.put("/etc/os-release", 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n')
    core.put("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
    core.put("/proc/sys/kernel/osrelease", "6.1.0\n")
    core.put("/lib/modules/6.1.0/modules.dep", "kernel/a/kvm-intel.ko: x\nkernel/vhost_net.ko.xz:\n")
    core.put("/dev/net/tun", "")
    around = surroundings(core.root)
    assert around.nodes == ("/dev/net/tun",)
    assert (around.distribution, around.release, around.cpu_can_virtualize) == ("debian", 12, True)
    assert around.loadable == ("kvm_intel", "vhost_net")
    core.put("/etc/os-release", 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="21"\n')
    assert surroundings(core.root)[1:3] == ("debian", 0)


def test_lines_on_a_terminal_without_utf8() -> None:
    """The marks are letters then, and the arrow is ASCII."""
    checks = (Check("a", "ok", "fine"), Check("b", "missing", "bad", "mend it"))
    assert doctor.shown(checks, utf8=False, colour=False) == "ok fine\n x bad\n   -> mend it\n"
    assert doctor.shown(checks, utf8=True, colour=False) == "✓ fine\n✗ bad\n  → mend it\n"
    assert "\x1b[31m✗" in doctor.shown(checks, utf8=True, colour=True)


# --- the commands on this host


def output(capsys: pytest.CaptureFixture[str], command, *words: str) -> tuple[int, str]:  # type: ignore[no-untyped-def]
    parser = ArgumentParser()
    command.add_arguments(parser)
    status = command.run(parser.parse_args(words))
    return status, capsys.readouterr().out


def test_doctor_json_fits_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """And its facts are what `vmrun plan --host` reads."""
    status, text = output(capsys, doctor, "--json")
    answer = json.loads(text)
    jsonschema.validate(answer, json.loads((SCHEMAS / "doctor.schema.json").read_text()))
    assert from_json(HostFacts, answer["facts"]).kernel
    assert status == (0 if answer["engine"] else 69)


def test_doctor_facts_are_only_the_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """So that they can be stored and given to another host's plan."""
    status, text = output(capsys, doctor, "--facts")
    assert status == 0
    assert from_json(HostFacts, json.loads(text)).cpus > 0


def test_host_list_json_fits_its_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema has every field of PciFacts, so a new fact is not forgotten there."""
    status, text = output(capsys, host_command, "list", "--json")
    schema = json.loads((SCHEMAS / "host-list.schema.json").read_text())
    jsonschema.validate(json.loads(text), schema)
    fields = set(schema["properties"]["functions"]["items"]["properties"])
    assert fields == {*PciFacts._fields, "name", "kind", "passable", "why_not"}
    assert status == 0


def test_host_table_tells_yes_allow_and_no() -> None:
    """A function that can be lent, one that a definition has to allow, and one that the host lives on."""
    from runner.host.pci_names import PciNames
    from runner.lending.candidates import candidates

    good = GOOD.pci[0]
    facts = GOOD._replace(
        pci=(
            good,
            good._replace(address="0000:02:00.0", iommu_group=8, reset_methods=()),
            good._replace(address="0000:03:00.0", iommu_group=9, uses=("mount /",)),
        )
    )
    text = host_command.table(*candidates(facts), PciNames(""))
    rows = [line.split() for line in text.splitlines() if line.startswith("0000:")]
    assert [row[-1] for row in rows] == ["yes", "allow", "no"]
    assert "no: the host lives on it: mount /" in text
    assert "allow_no_reset = true" in text


def test_what_stands_against_everything_is_said_once() -> None:
    """Below the table, with the command that mends it."""
    from runner.host.pci_names import PciNames
    from runner.lending.candidates import candidates

    text = host_command.table(*candidates(GOOD._replace(iommu=False)), PciNames(""))
    assert text.count("IOMMU is off") == 1
    assert "mend: switch VT-d on" in text
