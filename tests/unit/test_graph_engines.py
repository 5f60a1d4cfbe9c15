"""One list of what an engine refuses: the plan shows it, a check tells it with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.cli.check import findings_of
from runner.definition.load import loads
from runner.definition.model import Definition
from runner.engine.qemu.backends import DECLARED
from runner.graph.engines import NEEDS, REQUIRED_CAPABILITIES, complaints, lacks, modules_of
from runner.graph.plan import plan
from runner.hostfacts import HostFacts
from tests.unit.plan_goldens import CHECKOUT, definitions, host

HEAD = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0"\n'
QCOW2 = '[disks.root]\npath = "root.qcow2"\nformat = "qcow2"\nserial = "S1"\n'
SOCKET = '[vsock]\ncid = 3\nsocket = "/run/v.sock"\n'
SLOT = '[devices.port]\ndriver = "pcie-root-port"\nslot = "00:1f.0"\n'
READER = '[devices.reader]\ndriver = "sdhci-pci"\nblank = "1M"\n'
FEATURE = '[cpus]\ncount = 1\nfeatures = ["+aes", "-npt"]\n'
PMEM = '[pmem.root]\npath = "root.img"\nsize = "64M"\n'


def machine(text: str) -> Definition:
    return loads(HEAD + text, "/vms/x.toml")


def with_kvm(**facts: Any) -> HostFacts:
    """The laptop with another KVM."""
    laptop = host("laptop")
    return laptop._replace(kvm=laptop.kvm._replace(**facts))


@pytest.mark.parametrize(
    ("text", "engine", "why"),
    [
        (READER, "kvm", "it has no `reader` (sdhci_pci)"),
        ("[iommu]\n", "kvm", "it has no `iommu`"),
        ('[cpus]\ncount = 1\nmodel = "EPYC"\n', "kvm", "it has no CPU model EPYC"),
        (FEATURE, "kvm", "it knows no CPU feature `npt`"),
        (QCOW2, "kvm", "it can give a qcow2 disk no `disks.root.serial`"),
        (PMEM, "qemu", "it has no `root` (virtio_pmem)"),
        (SOCKET, "qemu", "it has no `vsock.socket`"),
        (SLOT, "qemu", "it keeps its own chipset in slot 00:1f.0"),
    ],
)
def test_what_one_engine_cannot_do_sends_the_machine_to_the_other(text: str, engine: str, why: str) -> None:
    """Each refusal is a reason in the plan, whichever engine is asked first, and the other one runs it."""
    other = next(one for one in NEEDS if one != engine)
    chosen = plan(machine(text), host("laptop"), engine=(engine, other)).engine
    assert chosen.name == other
    assert chosen.reasons[0] == (engine, why)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (with_kvm(max_vcpus=4), "this host's KVM gives a machine at most 4 CPUs, and it has 8"),
        (
            with_kvm(capabilities=tuple((name, 1) for name in REQUIRED_CAPABILITIES[1:])),
            f"this host's KVM lacks {REQUIRED_CAPABILITIES[0]}",
        ),
    ],
)
def test_what_this_hosts_kvm_cannot_do_sends_the_machine_to_qemu(facts: HostFacts, why: str) -> None:
    """Not only whether KVM is usable, but for this machine."""
    chosen = plan(machine("cpus = 8"), facts).engine
    assert (chosen.name, chosen.reasons[0]) == ("qemu", ("kvm", why))
    assert plan(machine("cpus = 4"), with_kvm(max_vcpus=4)).engine.name == "kvm"


AVX512F, AVX2 = 1 << 16, 1 << 5
WITH_DEADLINE = tuple((name, 1) for name in (*REQUIRED_CAPABILITIES, "KVM_CAP_TSC_DEADLINE_TIMER"))


@pytest.mark.parametrize(
    ("features", "kvm", "absent"),
    [
        ('"+avx512f", "+avx2"', {"cpuid": (("7.ebx", AVX2),)}, "`avx512f`"),
        ('"+avx512f", "+avx2"', {"cpuid": (("1.ecx", 0),)}, "`avx512f`, `avx2`"),
        (
            '"+tsc_deadline_timer"',
            {"cpuid": (("1.ecx", 1 << 24),)},
            "`tsc_deadline_timer`",
        ),
    ],
)
def test_a_cpu_feature_that_this_hosts_kvm_does_not_offer_sends_the_machine_to_qemu(
    features: str, kvm: dict[str, Any], absent: str
) -> None:
    text = f"[cpus]\ncount = 1\nfeatures = [{features}]\n"
    why = f"this host's KVM does not offer {absent} to guests"
    assert plan(machine(text), with_kvm(**kvm)).engine.reasons[0] == ("kvm", why)
    on_kvm = plan(machine(f'accelerator = "kvm"\n{text}'), with_kvm(**kvm), engine=("qemu",)).engine
    assert (on_kvm.name, on_kvm.reasons) == ("", (("qemu", why),))


@pytest.mark.parametrize(
    ("features", "kvm"),
    [
        ('"+avx512f", "+avx2"', {"cpuid": (("7.ebx", AVX512F | AVX2),)}),
        ('"-avx512f"', {"cpuid": (("7.ebx", 0),)}),
        ('"+tsc_deadline_timer"', {"cpuid": (("1.ecx", 0),), "capabilities": WITH_DEADLINE}),
        ('"+avx512f"', {}),  # facts of a host that nobody has asked
    ],
)
def test_a_cpu_feature_that_is_there_or_not_wanted_or_not_known_of_refuses_nothing(
    features: str, kvm: dict[str, Any]
) -> None:
    text = f"[cpus]\ncount = 1\nfeatures = [{features}]\n"
    assert plan(machine(text), with_kvm(**kvm)).engine.name == "kvm"


def test_qemu_on_kvm_has_kvms_limit_of_cpus() -> None:
    """The accelerator is the same kernel's."""
    asked = machine('cpus = 8\naccelerator = "kvm"\n')
    assert plan(asked, with_kvm(max_vcpus=4), engine=("qemu",)).engine.name == ""
    assert plan(machine("cpus = 8"), with_kvm(max_vcpus=4), engine=("qemu",)).engine.name == "qemu"


@pytest.mark.parametrize(
    ("text", "engine", "line", "column", "message"),
    [
        (READER, '"kvm"', 4, 10, "the engine kvm has no `reader` (sdhci_pci)"),
        ("[iommu]\n", '"kvm"', 4, 2, "the engine kvm has no `iommu`"),
        ("iommu = {}\n", '"kvm"', 4, 1, "the engine kvm has no `iommu`"),
        (FEATURE, '["kvm"]', 6, 21, "the engine kvm knows no CPU feature `npt`"),
        (QCOW2, '"kvm"', 7, 1, "the engine kvm can give a qcow2 disk no `disks.root.serial`"),
        (SOCKET, '"qemu"', 6, 1, "the engine qemu has no `vsock.socket`"),
        (SLOT, '"qemu"', 6, 1, "the engine qemu keeps its own chipset in slot 00:1f.0"),
    ],
)
def test_check_tells_where_what_no_engine_of_the_list_can_do_on_any_host(
    tmp_path: Path, text: str, engine: str, line: int, column: int, message: str
) -> None:
    """With its place and the engine that could, without a look at this host."""
    path = tmp_path / "x.toml"
    path.write_text(f"{HEAD}engine = {engine}\n{text}")
    (found,) = findings_of(str(path), (), look_at_host=False)
    assert (found.line, found.column, found.message) == (line, column, message)
    assert found.severity == "error"
    assert found.expected == f'engine = "{"kvm" if "qemu" in engine else "qemu"}"'


def test_check_tells_every_engine_of_the_list_and_each_thing(tmp_path: Path) -> None:
    """What one engine lacks and the other has is no fault; what makes both refuse is told for both."""
    path = tmp_path / "x.toml"
    path.write_text(HEAD + READER)
    assert findings_of(str(path), (), look_at_host=False) == ()
    path.write_text(HEAD + READER + PMEM)
    found = findings_of(str(path), (), look_at_host=False)
    assert [(one.line, one.message) for one in found] == [
        (3, "the engine kvm has no `reader` (sdhci_pci)"),
        (6, "the engine qemu has no `root` (virtio_pmem)"),
    ]
    assert {one.expected for one in found} == {"what one engine can do all of"}


def test_check_marks_the_setting_that_no_engine_can_follow(tmp_path: Path) -> None:
    """``--set`` is where it was said."""
    path = tmp_path / "x.toml"
    path.write_text(HEAD + QCOW2.replace('serial = "S1"\n', "") + '[net.lan]\nbackend = "user"\n')
    assert findings_of(str(path), (), look_at_host=False) == ()
    (found,) = findings_of(str(path), ('engine="kvm"', 'disks.root.serial="S1"'), look_at_host=False)
    assert (found.file, found.source) == ("--set", 'disks.root.serial="S1"')


@pytest.mark.parametrize("path", definitions())
def test_no_reference_machine_is_refused_by_every_engine(path: str) -> None:
    """The list does not grow over what runs."""
    from runner.definition.load import load

    definition = load(str(CHECKOUT / path))
    assert complaints(definition, definition.engine) == ()


@pytest.mark.parametrize(
    "text", [QCOW2, SOCKET, PMEM, READER, "rng = true", "console = 'pty'", "[vsock]\ncid = 3"]
)
def test_what_qemu_does_not_refuse_it_can_feed(text: str) -> None:
    """Every backend of a device that QEMU may have is one that the engine declares to it."""
    definition = machine(text)
    refused = lacks("qemu", definition, modules_of(definition))
    graph = plan(definition, host("laptop"), engine=("qemu",))
    kinds = {claim.kind for node in graph.nodes for claim in node.claim.backends}
    assert (kinds <= set(DECLARED)) == (not refused)
