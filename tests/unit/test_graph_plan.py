"""plan(): pure, the same bytes twice, right addresses, and an engine with its reasons."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.definition.load import loads
from runner.definition.model import Cpus, Definition, Memory
from runner.errors import DefinitionError
from runner.graph import x86
from runner.graph.model import BackendClaim, BarClaim, Claim, IrqClaim, PciClaim, PortClaim, Region
from runner.graph.plan import plan
from runner.graph.show import show
from runner.hostfacts import HostFacts, KvmFacts, QemuFacts
from tests.unit import plan_goldens

KVM = HostFacts(kvm=KvmFacts(usable=True, vendor_module="kvm_intel", why="kvm_intel runs unmodified guests"))
BOTH = KVM._replace(qemu=QemuFacts("/usr/bin/qemu-system-x86_64", "7.2"))
QEMU = BOTH._replace(kvm=KvmFacts(why="/dev/kvm does not exist"))


def machine(more: str = "", **parts: Any) -> Definition:
    return loads(f'kernel = "/boot/vmlinuz"\ncmdline = "console=ttyS0"\n{more}')._replace(**parts)


@contextmanager
def device(kind: str, claim: Claim, **functions: Any) -> Iterator[None]:
    """A device module that exists for one test."""
    module: Any = ModuleType(f"runner.devices.{kind}")
    module.claim = lambda name, options: claim
    for name, function in functions.items():
        setattr(module, name, function)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]


def entry(kind: str, name: str, **options: Any) -> Any:
    from runner.definition.model import DeviceEntry

    return DeviceEntry("devices", name, kind, options)


def test_pci_is_planned_only_where_there_is_a_function() -> None:
    """A definition without PCI has no host bridge, no window and no ECAM."""
    kinds = {region.kind for region in plan(machine(), KVM).regions}
    assert kinds == {"ram", "reserved", "ioapic", "lapic"}
    with_rng = plan(machine("rng = true"), KVM)
    assert {"mmio32", "mmio64", "ecam"} <= {region.kind for region in with_rng.regions}
    assert with_rng.nodes[0].kind == "pci_host"


@given(st.integers(2, 3 << 20).map(lambda megabytes: megabytes << 20), st.booleans())
def test_memory_map_holds_all_of_memory_and_never_overlaps(size: int, pci: bool) -> None:
    """RAM adds up to the memory but for the hole below 1 MiB; the gap below 4 GiB has none; sorted."""
    definition = machine("rng = true" if pci else "")
    definition = definition._replace(memory=definition.memory._replace(size=size))
    graph = plan(definition, KVM._replace(physical_bits=46))
    ram = [region for region in graph.regions if region.kind == "ram"]
    assert sum(region.size for region in ram) == size - 0x6_0000
    assert sum(length for _, length in x86.backing(size)) == size
    assert not any(one.start < 0x1_0000_0000 and one.start + one.size > 0xC000_0000 for one in ram)
    ends = 0
    for region in graph.regions:
        assert region.start >= ends
        ends = region.start + region.size


@pytest.mark.parametrize(
    ("cpus", "ids"),
    [
        (Cpus(4, 1, 4, 1), [0, 1, 2, 3]),
        (Cpus(4, 2, 1, 2), [0, 1, 2, 3]),
        (Cpus(6, 2, 3, 1), [0, 1, 2, 4, 5, 6]),
        (Cpus(12, 2, 3, 2), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]),
    ],
)
def test_apic_ids_give_each_level_whole_bits(cpus: Cpus, ids: list[int]) -> None:
    """Three cores take two bits, so that CPUID can describe the topology by shifts."""
    assert [vcpu.apic_id for vcpu in plan(machine(cpus=cpus), KVM).vcpus] == ids


def test_255_cpus_are_planned_and_ids_beyond_the_apic_are_refused() -> None:
    """254 is the last id of an APIC; a topology that needs more says which to take."""
    assert plan(machine(cpus=Cpus(255, 255)), KVM).vcpus[-1].apic_id == 254
    with pytest.raises(DefinitionError, match="85 sockets x 3 cores x 1 threads need APIC id 338"):
        plan(machine(cpus=Cpus(255, 85, 3, 1)), KVM)


def test_first_usable_engine_is_chosen_and_every_one_has_its_reason() -> None:
    """The preference decides; each engine of it is told with why or why not."""
    assert plan(machine(), BOTH).engine == (
        "kvm",
        "kvm",
        (("kvm", "kvm_intel runs unmodified guests"), ("qemu", "not needed, kvm comes first")),
    )
    assert plan(machine(), QEMU).engine == (
        "qemu",
        "tcg",
        (("kvm", "/dev/kvm does not exist"), ("qemu", "QEMU 7.2 is installed")),
    )


def test_engine_given_on_the_command_line_never_falls_back() -> None:
    """``--engine kvm`` on a host without it: none, with the reason, and still a graph to look at."""
    graph = plan(machine(), QEMU, engine=("kvm",))
    assert graph.engine == ("", "", (("kvm", "/dev/kvm does not exist"),))
    assert any(region.kind == "ioapic" for region in graph.regions)
    assert "none can run it here" in show(graph)


def test_what_an_engine_has_not_is_refused_by_name() -> None:
    """A device that only QEMU emulates sends the definition there, and the plan says which."""
    definition = machine('[devices.reader]\ndriver = "sdhci-pci"\nblank = "1M"\n[iommu]\n')
    chosen = plan(definition, BOTH).engine
    assert chosen.name == "qemu"
    assert chosen.reasons[0] == ("kvm", "it has no `reader` (sdhci_pci), `iommu`")
    with device("ours_only", Claim(), build=None):
        only = machine(devices=(entry("ours_only", "thing"),))
        assert plan(only, QEMU).engine.reasons[1] == ("qemu", "it has no `thing` (ours_only)")


def test_unknown_kind_is_refused_by_both_engines() -> None:
    """A device without a module is nobody's, and is never left out silently."""
    graph = plan(machine(devices=(entry("flux_capacitor", "flux"),)), BOTH)
    assert graph.engine.name == ""
    assert all("`flux` (flux_capacitor)" in why for _, why in graph.engine.reasons)


def test_for_qemu_only_slots_are_decided() -> None:
    """QEMU's firmware places memory and BARs; the plan says so and claims nothing."""
    graph = plan(machine("rng = true"), QEMU)
    assert graph.regions == ()
    function = graph.nodes[-1].claim.pci
    assert function is not None
    assert function.slot == "00:01.0"
    assert all(bar.at is None for bar in function.bars)
    assert "the memory map is placed by QEMU's firmware" in show(graph)


def test_two_devices_on_one_port_are_told_with_both_names() -> None:
    """The refusal names both and the ports in hex."""
    both = r"ports of `devices\.a` \(0x3fc–0x3ff\) overlaps ports of `serial` \(0x3f8–0x3ff\)"
    claim = Claim(ports=(PortClaim(4, 0x3FC),))
    with device("twin", claim, build=None), pytest.raises(DefinitionError, match=both):
        plan(machine(devices=(entry("twin", "a"),)), KVM)


def test_open_wishes_are_filled_around_fixed_ones() -> None:
    """Ports, lines and regions without a place get one that nobody has."""
    asks = Claim(
        ports=(PortClaim(8), PortClaim(1, 0x700)),
        irqs=(IrqClaim(), IrqClaim(5)),
        regions=(Region(0, 0x1000, "device", "a"), Region(0, 4 << 20, "device", "a")),
    )
    with device("open", asks, build=None):
        graph = plan(machine(devices=(entry("open", "a"),)), KVM)
    given_claim = graph.nodes[-1].claim
    assert [port.at for port in given_claim.ports] == [0x708, 0x700]
    assert [irq.line for irq in given_claim.irqs] == [10, 5]
    assert [region.start for region in given_claim.regions] == [0xFEB0_0000, 0x1_0000_0000]
    assert set(given_claim.regions) < set(graph.regions)


def test_intx_spreads_by_slot_and_swizzles_below_a_port() -> None:
    """GSI 16 + (device + pin - 1) mod 8; below a root port the port's slot counts."""
    function = PciClaim(1, 2, 0, intx_pin=1, bars=(BarClaim(0, 0x1000, "mem32"),))
    with (
        device("fn", Claim(pci=function), build=None),
        device("rp", Claim(pci=function._replace(bridge=True)), build=None),
    ):
        fixed = [entry("fn", "a")._replace(slot="00:05.0"), entry("rp", "p")._replace(slot="00:06.0")]
        graph = plan(machine(devices=(*fixed, entry("fn", "b", bus="p"))), KVM)
    found = {node.name: node.claim for node in graph.nodes}
    assert [found[name].irqs[-1].line for name in "apb"] == [21, 22, 22]
    below, port = found["b"].pci, found["p"].pci
    assert below is not None
    assert port is not None
    assert below.slot == "01:00.0"
    assert below.bars[0].at == port.windows[0].start


def test_memory_is_shared_where_another_process_maps_it() -> None:
    """virtiofs needs it, asked for or not, and the plan says why."""
    served = Claim(backends=(BackendClaim("fs.src", "virtiofs"),))
    with device("served", served, build=None):
        graph = plan(machine(devices=(entry("served", "src"),)), KVM)
    assert graph.memory.shared
    assert graph.notes == ("memory is shared, since `src` (virtiofs) is served by another process",)


def test_memory_that_has_to_be_shared_is_not_merged_and_that_is_told() -> None:
    """The definition asks for both, one of them by a device; KSM merges private memory only."""
    served = Claim(backends=(BackendClaim("fs.src", "virtiofs"),))
    with device("served", served, build=None):
        graph = plan(machine(devices=(entry("served", "src"),), memory=Memory(1 << 30, merge=True)), KVM)
    assert not graph.memory.merge
    assert graph.notes[0].endswith("and shared memory is not merged: `memory.merge` has no effect")


def test_resolve_sees_the_host_and_its_result_is_in_the_graph() -> None:
    """What depends on the host is in the options, so the graph alone is enough later."""
    resolve = lambda name, options, facts: {**options, "said": f"{name} on {facts.kernel}"}  # noqa: E731
    with device("hosted", Claim(), build=None, resolve=resolve):
        graph = plan(machine(devices=(entry("hosted", "x"),)), KVM._replace(kernel="6.1"))
    assert graph.nodes[-1].options == {"said": "devices.x on 6.1"}


TOUCHES = {"open", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen", "fcntl.ioctl"}
_touched: list[str] | None = None


def _audit(event: str, args: object) -> None:
    if _touched is not None and event in TOUCHES:
        _touched.append(f"{event} {args}")


sys.addaudithook(_audit)


def test_plan_touches_nothing_of_the_host() -> None:
    """No file, socket or process: definition and facts are all it looks at."""
    global _touched  # noqa: PLW0603
    definition = machine("rng = true\n[disks.root]\npath = 'x.img'\nformat = 'raw'\n")
    plan(definition, KVM)  # modules are imported now
    seen = _touched = []
    try:
        graph = plan(definition, KVM)
    finally:
        _touched = None
    assert graph.engine.name == "kvm"
    assert seen == []


def test_plan_twice_gives_the_same_bytes_in_another_process_too() -> None:
    """Neither hash seed nor order of imports shows in the result."""
    import os
    import subprocess

    code = (
        "from runner.graph.encode import dumps\n"
        "from tests.unit.test_graph_plan import *\n"
        "sys.stdout.write(dumps(plan(machine('rng = true'), BOTH)))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=plan_goldens.CHECKOUT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


@pytest.mark.parametrize("path", plan_goldens.definitions())
@pytest.mark.parametrize("host_name", plan_goldens.HOSTS)
def test_plan_of_every_reference_machine_is_as_its_golden_file(path: str, host_name: str) -> None:
    """``python -m tests.unit.plan_goldens`` writes them anew when a change is meant."""
    texts = plan_goldens.rendered(path, host_name)
    assert texts == plan_goldens.rendered(path, host_name)
    for form, text in texts.items():
        assert text == plan_goldens.golden(path, host_name, form).read_text(), f"{path} on {host_name}"


def test_golden_files_belong_to_a_definition_and_name_no_place_of_this_host() -> None:
    """No golden file is left of a definition that is gone, and none holds a path of who wrote it."""
    wanted = {
        plan_goldens.golden(path, name, form)
        for path in plan_goldens.definitions()
        for name in plan_goldens.HOSTS
        for form in ("txt", "json")
    }
    files = {path for path in plan_goldens.PLANS.rglob("*") if path.is_file()}
    assert files <= wanted
    assert {path.with_suffix(".txt") for path in wanted} <= files
    for file in files:
        assert str(plan_goldens.CHECKOUT) not in file.read_text()
        if file.suffix == ".json":
            json.loads(file.read_text())
