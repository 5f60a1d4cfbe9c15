"""The graph in QEMU's words: held still by a golden file for every machine in ``vms/``.

``python -m tests.unit.test_engine_qemu_arguments`` writes the golden files anew.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from runner.definition.load import load, loads
from runner.engine.protocol import Resources
from runner.engine.qemu.arguments import CONTROL, EXIT_PORT, RESET_LOG, arguments
from runner.errors import VmrunError
from runner.graph.model import BootFiles, Graph
from runner.graph.plan import plan
from tests.unit.plan_goldens import CHECKOUT, GOLDEN, definitions, host

OWN = {CONTROL: 3, EXIT_PORT: 4, RESET_LOG: 5}
FILES = BootFiles("/cache/vmlinux", "/cache/vmlinuz", "/cache/initramfs.cpio")


def words(graph: Graph, **fds: int) -> list[str]:
    """The argument list; every backend of the graph gets a descriptor from 10 on."""
    names = [claim.name for node in graph.nodes for claim in node.claim.backends]
    opened = {name: number for number, name in enumerate(dict.fromkeys(names), start=10)}
    return arguments(graph, FILES, Resources({**opened, **fds, **OWN}))


def graph_of(text: str) -> Graph:
    head = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0"\n'
    return plan(loads(head + text, "/vms/x.toml"), host("laptop"), engine=("qemu",))


def option(found: list[str], name: str) -> list[str]:
    return [value for key, value in pairwise(found) if key == name]


def golden(path: str) -> Path:
    return GOLDEN / "qemu" / Path(path).relative_to("vms").with_suffix(".txt")


def rendered(path: str) -> str:
    """One option a line, with its value."""
    try:
        graph = plan(load(str(CHECKOUT / path)), host("laptop"), engine=("qemu",))
    except VmrunError as error:
        return f"{type(error).__name__}: {error}\n"
    text = "\n".join(words(graph)).replace("\n-", "\0-").replace("\n", " ").replace("\0", "\n")
    return text.replace(str(CHECKOUT), "CHECKOUT") + "\n"


@pytest.mark.parametrize("path", definitions())
def test_a_reference_machine_has_the_words_of_its_golden_file(path):
    assert rendered(path) == golden(path).read_text()


def test_nothing_is_there_that_the_graph_does_not_have():
    found = words(graph_of(""))
    assert {"-nodefaults", "-no-user-config"} <= set(found)
    assert option(found, "-display") == ["none"]


def test_memory_is_in_bytes_and_its_pages_are_those_of_the_definition():
    found = words(graph_of('memory = { size = "1G", hugepages = "2M", prefault = true }'))
    assert option(found, "-m") == [f"{1 << 30}B"]
    assert option(found, "-object") == [
        f"memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on,id=ram,size={1 << 30}B,prealloc=on"
    ]


def test_each_numa_zone_has_its_memory_and_its_cpus():
    text = """
    cpus = 3
    [memory]
    size = "768M"
    shared = true
    zones = [{ size = "512M", cpus = [0, 2] }, { size = "256M", cpus = [1] }]
    """
    found = words(graph_of(text))
    assert option(found, "-numa") == [
        "node,nodeid=0,memdev=ram0,cpus=0,cpus=2",
        "node,nodeid=1,memdev=ram1,cpus=1",
    ]
    assert all("memory-backend-memfd,share=on" in each for each in option(found, "-object"))
    assert "memory-backend" not in option(found, "-machine")[0]


def test_topology_model_and_features_reach_the_processor():
    topology = "{ sockets = 2, cores = 2, threads = 2 }"
    text = f'cpus = {{ count = 8, topology = {topology}, features = ["+svm", "-tsc_deadline_timer"] }}'
    found = words(graph_of(text))
    assert option(found, "-smp") == ["8,sockets=2,cores=2,threads=2"]
    assert option(found, "-cpu")[0].endswith(",svm=on,tsc-deadline=off")


@pytest.mark.parametrize(
    ("extra", "there", "not_there"),
    [
        ("", ["format=raw", "cache=writeback", "auto-read-only=off"], ["readonly", "snapshot", "backing"]),
        ("", ["werror=report", "rerror=report"], []),
        ("readonly = true", ["readonly=on"], ["snapshot"]),
        ("ephemeral = true", ["snapshot=on"], ["readonly"]),
        ("direct = true", ["cache=none", "aio=native"], []),
        ('cache = "writethrough"', ["cache=writethrough"], []),
        ('cache = "writethrough"\ndirect = true', ["cache=directsync"], []),
    ],
)
def test_a_disk_is_a_descriptor_and_what_the_definition_says_of_it(extra, there, not_there):
    (drive,) = option(words(graph_of(f'[disks.root]\npath = "a.img"\nformat = "raw"\n{extra}')), "-drive")
    assert "file=/dev/fdset/" in drive
    assert "a.img" not in drive
    assert all(word in drive for word in there)
    assert not any(word in drive for word in not_there)


def test_a_disk_of_the_host_is_read_as_one_and_shown_with_its_sectors():
    """QEMU's driver for files refuses a block device, and its disks have 512 bytes a sector by themselves."""
    graph = graph_of('[disks.root]\npath = "/dev/sdx"\nformat = "raw"')
    facts = {"disks.root": {"device": True, "sector": 4096}}
    found = arguments(graph, FILES, Resources({**OWN, "disks.root": 10}, facts))
    (drive,) = option(found, "-drive")
    assert "format=raw,file.driver=host_device,file.filename=/dev/fdset/10," in drive
    (device,) = [each for each in option(found, "-device") if each.startswith("virtio-blk-pci")]
    assert device.endswith(",logical_block_size=4096,physical_block_size=4096")


def test_a_qcow2_image_never_brings_its_own_backing_file():
    """device-bugs 18."""
    (drive,) = option(words(graph_of('[disks.root]\npath = "a.img"\nformat = "qcow2"')), "-drive")
    assert 'json:{"driver": "qcow2",, "backing": null' in drive


def test_a_tap_has_a_descriptor_a_queue_and_vhost_where_the_host_has_it():
    graph = graph_of('[net.lan]\nbackend = "tap"\ntap = "t0"\nqueues = 2')
    more = {"net.lan": 20, "net.lan:1": 21, "net.lan.vhost": 22, "net.lan.vhost:1": 23}
    assert option(words(graph, **more), "-netdev") == ["tap,id=net.lan,fds=20:21,vhost=on,vhostfds=22:23"]


def test_a_root_port_comes_before_what_sits_below_it():
    text = """
    [devices.below]
    driver = "nvme"
    blank = "1M"
    bus = "port"
    [devices.port]
    driver = "pcie-root-port"
    """
    port, below = (each for each in option(words(graph_of(text)), "-device") if "devices." in each)
    assert port.startswith("pcie-root-port,id=devices.port")
    assert "bus=devices.port,addr=00.0" in below


def test_only_function_0_of_a_shared_slot_is_told_that_there_are_others():
    text = """
    [devices.first]
    driver = "qemu-xhci"
    slot = "00:0d.0"
    [devices.second]
    driver = "qemu-xhci"
    slot = "00:0d.1"
    [devices.alone]
    driver = "qemu-xhci"
    slot = "00:0e.0"
    """
    found = [each for each in option(words(graph_of(text)), "-device") if "devices." in each]
    assert [each.split(",")[1] for each in found if each.endswith(",multifunction=on")] == [
        "id=devices.first"
    ]


def test_a_comma_is_part_of_a_value():
    graph = graph_of('name = "x"\n[fs.src]\ndriver = "9p"\npath = "/srv/a,b"')
    assert "path=/srv/a,,b," in option(words(graph), "-fsdev")[0]


def test_a_backend_that_qemu_cannot_be_fed_from_never_gets_to_its_words():
    """The plan refuses it; should it not, the fault is ours and is told as such."""
    node = graph_of('[disks.root]\npath = "a.img"\nformat = "raw"').nodes[-1]
    strange = node.claim.backends[0]._replace(kind="carrier-pigeon")
    fed = node._replace(claim=node.claim._replace(backends=(strange,)))
    with pytest.raises(AssertionError, match="carrier-pigeon"):
        words(graph_of("")._replace(nodes=(fed,)))


def test_kvm_is_taken_by_qemu_only_where_it_is_asked_for():
    assert option(words(graph_of("")), "-accel") == ["tcg,thread=multi"]
    found = words(graph_of('accelerator = "kvm"'))
    assert option(found, "-accel") == ["kvm"]
    assert option(found, "-cpu") == ["host"]


def test_our_engine_is_no_less_kvm_than_qemus():
    """A file that asks QEMU for KVM runs on both; its preference list would mean nothing else."""
    text = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0"\naccelerator = "kvm"\n'
    graph = plan(loads(text, "/vms/x.toml"), host("lab"), engine=("kvm",))
    assert graph.engine.name == "kvm"


def test_qemu_with_kvm_needs_a_kvm_that_can_be_used():
    text = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0"\naccelerator = "kvm"\n'
    choice = plan(loads(text, "/vms/x.toml"), host("cloud"), engine=("qemu",)).engine
    assert choice.name == ""
    assert "kvm" in choice.reasons[0][1].lower()


def write() -> None:
    for path in definitions():
        golden(path).parent.mkdir(parents=True, exist_ok=True)
        golden(path).write_text(rendered(path))


if __name__ == "__main__":
    write()
