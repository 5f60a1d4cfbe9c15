"""Other tools' command lines: what becomes of each word, and that none is lost in silence."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli import import_
from runner.definition.load import load, loads
from runner.errors import UsageError
from runner.exchange.options import doubled, numbers, options, parts
from runner.exchange.taken import Imported
from runner.exchange.to_qemu import command
from runner.exchange.toml_text import toml
from runner.graph.model import BootFiles
from runner.graph.plan import plan
from runner.hostfacts import HostFacts, QemuFacts

SCALARS = st.text() | st.integers(-(10**9), 10**9) | st.booleans()
KEYS = st.text(max_size=9)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(KEYS, SCALARS, max_size=3)
DOCUMENTS = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3))

CLOUD_HYPERVISOR = (
    "cloud-hypervisor --kernel vmlinux --initramfs i.img --cmdline 'console=hvc0 root=/dev/vda1' "
    "--cpus boot=4,topology=2:2:1:1 --memory size=1024M,shared=on,hugepages=on "
    "--disk path=a.raw,image_type=raw,readonly=on path=b.qcow2,id=second,num_queues=2,serial=s "
    "--net tap=t0,mac=52:54:00:12:34:56,num_queues=4 --rng src=/dev/urandom --console tty --serial off "
    "--vsock cid=7,socket=v.sock --pvpanic --watchdog --debug-console file=dbg"
)
QEMU = (
    "qemu-system-x86_64 -M q35,accel=kvm -cpu EPYC,+svm,xsave=off -smp 4,cores=2,threads=2 -m 2G "
    "-kernel bzImage -initrd i.img -append 'console=ttyS0 a,,b' "
    "-drive file=a.img,format=raw,if=none,id=d0,cache=none "
    "-device virtio-blk-pci,drive=d0,serial=abc -drive file=b.qcow2,if=virtio,snapshot=on,readonly=on "
    "-netdev user,id=n0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-:53 "
    "-device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56 -netdev tap,id=n1,ifname=tap7 "
    "-device virtio-net-pci,netdev=n1 -serial mon:stdio -device virtio-rng-pci -device pcie-root-port,id=p "
    "-virtfs local,path=src,mount_tag=src,readonly=on -device vhost-vsock-pci,guest-cid=4 -name guest=web"
)


def imported(line: str) -> Imported:
    return import_.read(shlex.split(line))


def test_cloud_hypervisor_becomes_a_definition() -> None:
    """Each option that has a counterpart, with the defaults of cloud-hypervisor where they are not ours."""
    found = imported(CLOUD_HYPERVISOR)
    document = tomllib.loads(toml(found.document))
    assert document["cpus"] == {"count": 4, "topology": {"sockets": 1, "cores": 2, "threads": 2}}
    assert document["memory"] == {"size": "1024M", "shared": True, "hugepages": "2M"}
    assert document["disks"] == {
        "disk": {"path": "a.raw", "format": "raw", "readonly": True},
        "second": {"path": "b.qcow2", "format": "qcow2", "serial": "s", "queues": 2},
    }
    assert document["net"]["net"] == {"backend": "tap", "tap": "t0", "mac": "52:54:00:12:34:56", "queues": 2}
    assert (document["serial"], document["console"], document["rng"]) == ("off", "tty", True)
    assert loads(toml(found.document)).cmdline == "console=hvc0 root=/dev/vda1"
    assert imported("cloud-hypervisor --kernel k").document["serial"] == "null"


def test_qemu_becomes_a_definition() -> None:
    """What an id ties together is one table; bare sizes are MiB, as QEMU has it."""
    found = imported(QEMU)
    document = tomllib.loads(toml(found.document))
    assert document["cpus"]["features"] == ["+svm", "-xsave"]
    assert document["disks"]["d0"] == {"path": "a.img", "format": "raw", "direct": True, "serial": "abc"}
    assert document["disks"]["drive1"]["ephemeral"] is True
    assert document["net"]["n0"]["forwards"] == [
        {"host": 2222, "guest": 22, "address": "127.0.0.1"},
        {"host": 53, "guest": 53, "protocol": "udp"},
    ]
    assert document["net"]["n1"] == {"backend": "tap", "tap": "tap7"}
    assert document["fs"]["src"] == {"driver": "9p", "path": "src", "tag": "src", "readonly": True}
    assert loads(toml(found.document)).name == "web"
    assert imported("qemu-system-x86_64 -m 512 -kernel k").document["memory"] == "512M"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cloud-hypervisor --tpm socket=/x", "--tpm socket=/x"),
        ("cloud-hypervisor --memory size=1G,hotplug_size=2G", "hotplug_size=2G"),
        ("cloud-hypervisor --cpus boot=1,max=4", "max=4"),
        ("cloud-hypervisor --disk path=a.img", "format of a.img"),
        ("cloud-hypervisor --fs tag=t,socket=/s", "virtiofsd"),
        ("qemu-system-x86_64 -device usb-tablet", "usb-tablet"),
        ("qemu-system-x86_64 -no-reboot", "about the program"),
        ("qemu-system-x86_64 -drive file=a,format=raw,if=none,id=x", "no device uses it"),
        ("qemu-system-x86_64 -hda a.img", "no IDE"),
        ("qemu-system-x86_64 a.img", "a.img"),
    ],
)
def test_what_is_not_taken_over_is_told(line: str, told: str) -> None:
    """Unknown options, parts of options, and what was filled in."""
    assert any(told in note for note in imported(line).notes)


def test_a_command_is_found_in_a_script(tmp_path: Path) -> None:
    """Comments, continued lines, sudo and paths before the program's name."""
    script = tmp_path / "run.sh"
    script.write_text("#!/bin/sh\n# start\nexec sudo /usr/bin/qemu-system-x86_64 \\\n  -m 1G -kernel 'a b'\n")
    assert import_.read(import_.command([str(script)])).document["kernel"] == "a b"


HOWTO = """\
./target/debug/cloud-hypervisor \\
    --kernel ~/vmlinux \\
    --disk path=~/clear-29160-kvm.img \\
    --console off \\
    --serial tty \\
    --cmdline "console=ttyS0 reboot=k panic=1 nomodules i8042.noaux i8042.nomux i8042.nopnp \
i8042.dumbkbd root=/dev/vda3" \\
    --cpus 4 \\
    --memory size=512M \\
    --device path=/sys/bus/pci/devices/0000:01:00.0/
"""


@pytest.mark.parametrize(
    "text",
    [
        HOWTO,
        "$ sudo " + HOWTO,
        "# sudo\n$ sudo modprobe vfio_pci\n$ " + HOWTO + "$ echo done\n",
        "```\n" + HOWTO + "```\n\nThe guest's kernel will then detect the card reader.\n",
        "It doesn't run under kvm alone:\n\n" + HOWTO + "it's there now\n",
        HOWTO.replace("\n", "\r\n"),
        HOWTO.replace("\\\n", "\\  \n"),
        HOWTO.replace("\\\n", "\n"),
        HOWTO.rstrip("\n") + " >log 2>&1 &\nsleep 5\n",
        HOWTO.rstrip("\n") + " | tee log; echo done\n",
    ],
)
def test_the_command_of_the_howto_is_the_machine_that_we_ship(text: str, tmp_path: Path) -> None:
    """Continued lines, a prompt, sudo and what stands around the command: the same machine each time.

    The disk's format is all that is left to be looked at.
    """
    script = tmp_path / "howto.txt"
    script.write_bytes(text.encode())
    found = import_.read(import_.command([str(script)]))
    assert [note for note in found.notes if "format of ~/clear-29160-kvm.img" not in note] == []
    ours = tomllib.loads((Path(__file__).parents[2] / "vms" / "cardreader.toml").read_text())
    theirs = tomllib.loads(toml(found.document))
    assert list(theirs.pop("disks").values()) == list(ours.pop("disks").values())
    device = {"driver": "vfio", "path": "/sys/bus/pci/devices/0000:01:00.0/"}
    assert theirs.pop("devices") == {"device": device}  # ours says what it is, and not where
    assert ours.pop("devices")["reader"]["driver"] == "vfio"
    assert theirs == ours
    assert [(one.section, one.kind) for one in loads(toml(found.document)).devices] == [
        ("disks", "virtio_blk"),
        ("devices", "vfio"),
    ]


@pytest.mark.parametrize(
    "line", ["virsh start x", "cloud-hypervisor --cpus boot=x", "qemu-system-x86_64 -smp cpus=x", "'"]
)
def test_what_is_no_command_is_refused(line: str, tmp_path: Path) -> None:
    """Another tool, and values that are none: an error of use, no traceback."""
    script = tmp_path / "run.sh"
    script.write_text(line)
    with pytest.raises(UsageError):
        import_.read(import_.command([str(script)]))


@given(DOCUMENTS)
def test_a_document_survives_being_written(document: dict[str, object]) -> None:
    """tomllib reads from the text what was written, whatever the keys and strings."""
    assert tomllib.loads(toml(document)) == document  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_words_become_a_document_or_an_error_of_use(words: list[str]) -> None:
    """Nonsense after a tool's name never raises anything else."""
    for tool in ("cloud-hypervisor", "qemu-system-x86_64"):
        try:
            toml(import_.read([tool, *words]).document)
        except UsageError:
            continue


@given(st.sampled_from([CLOUD_HYPERVISOR, QEMU]), st.integers(0, 60), st.text('abc=,[]@"x0-', max_size=9))
def test_damaged_words_become_a_document_or_an_error_of_use(line: str, at: int, text: str) -> None:
    """One word of a right command replaced by another."""
    words = shlex.split(line)
    words[min(at, len(words) - 1) or 1] = text
    try:
        toml(import_.read(words).document)
    except UsageError:
        return


def test_options_are_cut_as_their_tools_cut_them() -> None:
    """Brackets and quotes for cloud-hypervisor, doubled commas for QEMU."""
    assert parts('a=[1,2],b="x,y",c') == {"a": "[1,2]", "b": "x,y", "c": ""}
    assert doubled("a,,b,c=d,,e,f", "file") == {"file": "a,b", "c": "d,e", "f": "on"}
    assert [one.name for one in options(["x", "--a", "1", "2", "-b=3"])] == ["", "a", "b"]
    assert numbers("[0-2,7]") == [0, 1, 2, 7]


def test_an_exported_command_names_files_and_not_descriptors(tmp_path: Path) -> None:
    """Disks, networks and consoles by name; what only vmrun does is told."""
    path = tmp_path / "vm.toml"
    path.write_text(
        'kernel = "k"\ncmdline = "console=ttyS0 a"\nserial = "tty"\ntimeout = "5s"\n[console]\nfile = "con"\n'
        '[disks.a]\npath = "a,b.img"\nformat = "raw"\nephemeral = true\ndirect = true\n[fs.s]\npath = "."\n'
        '[net.n]\nbackend = "user"\nforwards = [{ host = 1, guest = 2 }]\n[net.t]\nbackend = "tap"\n'
        '[devices.d]\ndriver = "nvme"\nblank = "1M"\n'
    )
    graph = plan(load(str(path)), HostFacts(qemu=QemuFacts("/q", "7.2")), engine=("qemu",))
    found = command(graph, BootFiles("/k", "/k", None))
    words = [" ".join(group) for group in found.groups]
    assert f"-drive if=none,id=disks.a,format=raw,file={tmp_path}/a,,b.img,cache=none,snapshot=on" in words
    assert "-netdev user,id=net.n,hostfwd=tcp:127.0.0.1:1-:2" in words
    assert "-chardev stdio,id=serial,signal=off" in words
    assert f"-chardev file,id=console,path={tmp_path}/con" in words
    assert not any("fd=" in word or "exit_port" in word for word in words)
    for told in ("exit status", "deadline", "virtiofsd", "tap0", "forgets"):
        assert any(told in note for note in found.notes), told


def test_an_exported_vsock_that_leads_elsewhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text('kernel = "k"\nserial = "off"\n[vsock]\ncid = 3\nsocket = "s"\n')
    graph = plan(load(str(path)), HostFacts(qemu=QemuFacts("/q", "7.2")), engine=("qemu",))
    notes = command(graph, BootFiles("/k", "/k", None)).notes
    assert any("vsock" in note and "Unix socket" in note for note in notes)
