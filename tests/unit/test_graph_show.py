"""Tree, DOT and SVG: everything of the graph is in them, and nothing in a definition can break them."""

from __future__ import annotations

import subprocess
from xml.etree import ElementTree

import pytest

from runner.definition.model import Cpus, FilePath, InitramfsBuild, KernelDeb, KernelUrl, Memory, NumaZone
from runner.graph import words
from runner.graph.dot import dot
from runner.graph.model import (
    BackendClaim,
    BarClaim,
    Boot,
    Claim,
    EngineChoice,
    Graph,
    IrqClaim,
    Node,
    PciClaim,
    PortClaim,
    Region,
)
from runner.graph.show import show
from runner.graph.svg import svg
from runner.graph.x86 import fixed_regions, vcpus

NASTY = 'x"<&>\\\n\x01'


def graph(name: str = "server") -> Graph:
    """A machine with one of everything."""
    cpus = Cpus(4, 1, 2, 2, model="EPYC", features=("+svm",), affinity=((0,), (1,), (0, 1), (2,)))
    port = PciClaim(0x1B36, 0xC, 0x60400, slot="00:18.0", bridge=True, msi_vectors=1,
                    windows=(Region(0xC010_0000, 0x10_0000, "mem32", "port"),))  # fmt: skip
    disk = PciClaim(0x1AF4, 0x1042, 0x10000, slot="01:00.0", bus="port", msix_vectors=3, intx_pin=1,
                    bars=(BarClaim(0, 0x4000, "mem64", True, 0x1_8000_0000),))  # fmt: skip
    path = {"text": "root.img", "resolved": "/images/root.img"}
    return Graph(
        name=name,
        source=FilePath("vms/server.toml", "/checkout/vms/server.toml"),
        digest="ab" * 32,
        engine=EngineChoice("kvm", "kvm", (("kvm", "usable"), ("qemu", "not needed"))),
        boot=Boot(KernelDeb("linux-image-amd64"), InitramfsBuild(("ext4",), (), "true"), "console=ttyS0"),
        cpus=cpus,
        vcpus=vcpus(cpus),
        memory=Memory(2 << 30, "2M", zones=(NumaZone(1 << 30, (0, 1)), NumaZone(1 << 30, (2, 3)))),
        regions=tuple(sorted(fixed_regions(2 << 30))),
        nodes=(
            Node("uart16550", "serial", "", {}, Claim(
                ports=(PortClaim(8, 0x3F8, "uart"),), irqs=(IrqClaim(4, name="uart"),),
                backends=(BackendClaim("serial", "char", {"mode": "tty"}),))),
            Node("pcie_root_port", "port", "devices", {}, Claim(pci=port)),
            Node("virtio_blk", "root", "disks", {}, Claim(
                pci=disk, irqs=(IrqClaim(17, "level", "low", "intx"),),
                backends=(BackendClaim("disks.root", "block", {"path": path, "readonly": True}),))),
        ),
        timeout=90.0,
        machine={"iommu": {"model": "intel"}},
        notes=("a note",),
    )  # fmt: skip


FACTS = (
    "server",
    "vms/server.toml",
    "kvm",
    "not needed",
    "linux-image-amd64",
    "console=ttyS0",
    "1 socket × 2 cores × 2 threads",
    "2 GiB",
    "serial",
    "0x3f8–0x3ff",
    "IRQ 4 edge",
    "00:18.0",
    "01:00.0",
    "1af4:1042",
    "BAR 0  mem64 0x180000000–0x180003fff, 16 KiB, prefetchable",
    "3 MSI-X vectors, INTA",
    "GSI 17 level active low",
    "block root.img, readonly",
    "a note",
)


@pytest.mark.parametrize("fact", FACTS)
def test_tree_and_picture_say(fact: str) -> None:
    """Each of these facts is in the tree and in the picture."""
    assert fact in show(graph())
    assert fact in "\n".join(ElementTree.fromstring(svg(graph())).itertext())


def test_tree_says_the_rest() -> None:
    """What the picture leaves out: APIC ids, affinity, NUMA, lines by number, machine parts."""
    text = show(graph())
    for fact in (
        "APIC ids 0–3",
        "vCPU 2 on host CPU 0–1",
        "NUMA node 1: 1 GiB, vCPUs 2–3",
        "I/O APIC at 0xfec00000",
        "0x0000100000–0x007fffffff  ram       2047 MiB",
        "iommu {model intel}",
        "deadline  90 s",
        "forwards mem32 0xc0100000–0xc01fffff",
        "features +svm",
    ):
        assert fact in text
    assert "/images" not in text, "paths are shown as the file says them"


def test_a_root_port_has_what_sits_below_it_below_it() -> None:
    """The tree's shape is the bus's."""
    lines = show(graph()).splitlines()
    port = next(index for index, line in enumerate(lines) if "00:18.0" in line)
    disk = next(index for index, line in enumerate(lines) if "01:00.0" in line)
    assert port < disk
    assert lines[disk].index("01:00.0") == lines[port].index("00:18.0") + 3


def test_names_cannot_break_out_of_the_picture() -> None:
    """A quote, an angle bracket, a backslash, a newline or a control character stays text."""
    machine = graph(NASTY)._replace(notes=(NASTY,))
    ElementTree.fromstring(svg(machine))
    assert dot(machine).count("\n") == dot(graph()).count("\n"), "no newline of a name is one of the file"


def test_graphviz_reads_our_dot() -> None:
    """The real parser accepts it, the nasty names too."""
    for machine in (graph(), graph(NASTY)):
        subprocess.run(["dot", "-Tcanon"], input=dot(machine), text=True, check=True, capture_output=True)


def test_dot_joins_machine_bus_device_and_backend() -> None:
    """The edges are the graph's."""
    text = dot(graph())
    for edge in (
        '"machine" -> "ports";',
        '"ports" -> "device serial";',
        '"device serial" -> "backend serial";',
        '"pci" -> "device devices.port" [label="00:18.0"];',
        '"device devices.port" -> "device disks.root" [label="01:00.0"];',
    ):
        assert edge in text


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (4096, "4 KiB"),
        (4097, "4097 bytes"),
        (3 << 30, "3 GiB"),
        ((3 << 30) - (1 << 20), "3071 MiB"),
    ],
)
def test_sizes_lose_nothing(count: int, said: str) -> None:
    """A size is said in the largest unit that leaves a whole number."""
    assert words.size(count) == said


def test_sources_are_said_in_words() -> None:
    """Each kind of kernel and initramfs has its sentence."""
    url = KernelUrl("https://example.org/vmlinuz", "ab" * 32)
    assert words.kernel(url) == "https://example.org/vmlinuz (sha256 abababababab…)"
    assert words.kernel(None) == words.initramfs(None) == "none"
    built = InitramfsBuild(("ext4",), (("/etc/motd", FilePath("motd", "/x/motd")),), "echo\ntrue")
    said = "built of busybox the host's, modules ext4, file /etc/motd = motd, run echo …"
    assert words.initramfs(built) == said
