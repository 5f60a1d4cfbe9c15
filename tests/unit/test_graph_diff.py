"""diff(): a device that was added is one line, a value that changed is told with both."""

from __future__ import annotations

from runner.graph.diff import Change, diff, show
from runner.graph.model import Claim, EngineChoice, Node
from tests.unit.test_graph_show import graph


def test_the_same_machine_has_no_difference() -> None:
    """Where its file lies and what comments it has is no difference."""
    moved = graph()._replace(digest="0" * 64, source=graph().source._replace(text="b.toml"))
    assert diff(graph(), moved) == ()


def test_an_added_device_is_one_line() -> None:
    """In either direction."""
    old = graph()
    added = Node("debugcon", "debugcon", "debugcon", {}, Claim())
    new = old._replace(nodes=(old.nodes[0], added, *old.nodes[1:]))
    assert diff(old, new) == (Change("device debugcon", None, "debugcon"),)
    assert diff(new, old) == (Change("device debugcon", "debugcon", None),)
    assert show(diff(old, new)) == "+ device debugcon: debugcon\n"
    less = old._replace(nodes=old.nodes[:2])
    assert show(diff(old, less)) == "- device disks.root: virtio_blk at 01:00.0\n"


def test_a_changed_value_is_told_with_both() -> None:
    """By its path, sizes in words and addresses in hex."""
    old = graph()
    disk = old.nodes[2]
    assert disk.claim.pci is not None
    bars = (disk.claim.pci.bars[0]._replace(at=0x1_8001_0000),)
    pci = disk.claim.pci._replace(bars=bars, slot="01:00.1")
    new = old._replace(
        memory=old.memory._replace(size=4 << 30),
        nodes=(*old.nodes[:2], disk._replace(claim=disk.claim._replace(pci=pci))),
        engine=EngineChoice("qemu", "tcg", (("kvm", "no"), ("qemu", "yes"))),
    )
    assert show(diff(old, new)).splitlines() == [
        "~ machine engine: kvm → qemu (tcg)",
        "~ engine kvm: usable → no",
        "~ engine qemu: not needed → yes",
        "~ memory size: 2 GiB → 4 GiB",
        "~ device disks.root: claim.pci.bars.0.at: 0x180000000 → 0x180010000",
        "~ device disks.root: claim.pci.slot: 01:00.0 → 01:00.1",
    ]


def test_regions_of_one_kind_are_told_apart_by_order() -> None:
    """RAM below 1 MiB, below 3 GiB and above 4 GiB are three regions of one name."""
    old = graph()
    new = old._replace(regions=tuple(one for one in old.regions if one.start != 0x10_0000))
    assert diff(old, new) == (Change("region ram memory #2", "0x100000–0x7fffffff", None),)


def test_a_command_of_several_lines_stays_on_one() -> None:
    """Each change is one line, whatever the definition holds."""
    old = graph()
    new = old._replace(boot=old.boot._replace(cmdline="a\nb"))
    assert show(diff(old, new)) == "~ boot cmdline: console=ttyS0 → a ⏎ b\n"
