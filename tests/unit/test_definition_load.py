"""From text to the frozen model, and what a start pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.definition.load import inspect, load, loads
from runner.definition.model import (
    CharBackend,
    CharPort,
    Cpus,
    DeviceEntry,
    FilePath,
    InitramfsBuild,
    KernelDeb,
    KernelFile,
    KernelUrl,
    Memory,
    NumaZone,
)
from runner.errors import DefinitionError, HostIoError, UsageError

HOWTO = """
kernel = "~/vmlinux"
cmdline = "console=ttyS0 reboot=k panic=1 nomodules i8042.noaux root=/dev/vda3"
cpus = 4
memory = "512M"
console = "off"
serial = "tty"
[disks.clear]
path = "~/clear-29160-kvm.img"
format = "raw"
[devices.reader]
driver = "vfio"
path = "/sys/bus/pci/devices/0000:01:00.0/"
slot = "00:05.0"
"""


def test_the_howtos_machine() -> None:
    """The manual's card reader VM, as the model has it."""
    machine = loads(HOWTO, "/vms/cardreader.toml")
    home = os.path.expanduser("~")
    assert machine.name == "cardreader"
    assert machine.kernel == KernelFile(FilePath("~/vmlinux", f"{home}/vmlinux"))
    assert machine.cpus == Cpus(4, 1, 4, 1)
    assert machine.memory == Memory(512 << 20)
    assert (machine.serial, machine.console) == (CharBackend("tty"), CharBackend("off"))
    assert machine.engine == ("kvm", "qemu")
    disk, reader = machine.devices
    assert (disk.section, disk.name, disk.kind, disk.slot) == ("disks", "clear", "virtio_blk", None)
    assert disk.options["path"] == {
        "text": "~/clear-29160-kvm.img",
        "resolved": f"{home}/clear-29160-kvm.img",
    }
    assert (reader.kind, reader.slot) == ("vfio", "00:05.0")
    assert "slot" not in reader.options


def test_devices_keep_the_order_of_the_file() -> None:
    """Slots are given in this order, so it is the author's."""
    image = 'path = "{0}"\nformat = "raw"\n'
    text = 'kernel = "k"\n[net.z]\n[disks.b]\n' + image.format("b") + "[disks.a]\n" + image.format("a")
    assert [entry.name for entry in loads(text).devices] == ["z", "b", "a"]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ('{ deb = "linux-image-amd64" }', KernelDeb("linux-image-amd64")),
        ('{ deb = "linux-image-amd64", version = "6.1" }', KernelDeb("linux-image-amd64", "6.1")),
        (f'{{ url = "https://x/y", sha256 = "{"AB" * 32}" }}', KernelUrl("https://x/y", "ab" * 32)),
    ],
)
def test_kernels_from_elsewhere(kernel: str, expected: object) -> None:
    """A Debian package, and an address with its hash."""
    assert loads(f"kernel = {kernel}\n").kernel == expected


def test_an_initramfs_to_build() -> None:
    """Modules in the order of the file, guest path to host path, and the work."""
    text = 'kernel = "k"\n[initramfs]\nrun = "true"\nmodules = ["b", "a"]\nfiles = { "/x" = "y" }\n'
    assert loads(text, "/vms/x.toml").initramfs == InitramfsBuild(
        ("b", "a"), (("/x", FilePath("y", "/vms/y")),), "true", None
    )


def test_tables_of_cpus_and_memory() -> None:
    """The long forms reach the model in every part."""
    text = (
        'kernel = "k"\n[cpus]\ncount = 4\ntopology = { cores = 2, threads = 2 }\nmodel = "EPYC"\n'
        'features = ["+svm"]\naffinity = [[0], [1], [0], [1]]\n'
        '[memory]\nsize = "2G"\nhugepages = "2M"\nshared = true\nprefault = true\n'
        'zones = [{ size = "1G", cpus = [0, 1] }, { size = "1G", cpus = [2, 3] }]\n'
    )
    machine = loads(text)
    assert machine.cpus == Cpus(4, 1, 2, 2, "EPYC", ("+svm",), ((0,), (1,), (0,), (1,)))
    zones = (NumaZone(1 << 30, (0, 1)), NumaZone(1 << 30, (2, 3)))
    assert machine.memory == Memory(2 << 30, "2M", True, True, False, zones)
    assert loads('kernel = "k"\n[memory]\nsize = "1G"\nmerge = true\n').memory == Memory(1 << 30, merge=True)


def test_short_forms_of_devices() -> None:
    """``true`` is every default, a character backend has mode and path, ``off`` and false are nothing."""
    text = (
        'kernel = "k"\nrng = true\nballoon = false\npvpanic = true\ndebugcon = { file = "log" }\n'
        'serial = { socket = "s" }\niommu = { }\nengine = "qemu"\ntimeout = "2m"\n'
    )
    machine = loads(text, "/vms/x.toml")
    assert machine.devices == (
        DeviceEntry("rng", "rng", "virtio_rng", {}, None),
        DeviceEntry("pvpanic", "pvpanic", "pvpanic", {}, None),
        DeviceEntry(
            "debugcon",
            "debugcon",
            "debugcon",
            {"mode": "file", "path": {"text": "log", "resolved": "/vms/log"}},
        ),
    )
    assert machine.serial == CharBackend("socket", FilePath("s", "/vms/s"))
    assert machine.machine == {"iommu": {"model": "intel", "interrupt_remapping": True, "caching": False}}
    assert (machine.engine, machine.timeout) == (("qemu",), 120.0)


def test_a_console_with_ports() -> None:
    """The device is there for its ports: the console behind it is then null and not off."""
    text = (
        'kernel = "k"\nserial = "off"\n[console]\ntarget = "off"\n'
        'ports = [{ name = "agent.0", target = { socket = "a" } }, { name = "x", target = "off" }]\n'
    )
    port = CharPort("agent.0", "socket", FilePath("a", "/vms/a"))
    assert loads(text, "/vms/x.toml").console == CharBackend("null", None, (port,))


def test_the_digest_is_of_the_text() -> None:
    """One character more is another definition."""
    assert loads('kernel = "k"\n').digest != loads('kernel = "k"\n\n').digest


def test_a_wrong_definition_raises_with_every_finding() -> None:
    """The error carries all findings and counts them."""
    with pytest.raises(DefinitionError, match=r"x\.toml: 2 errors") as error:
        loads('kernel = 5\ncpus = 0\nserial = "off"\n', "x.toml")
    assert len(error.value.findings) == 2


def test_warnings_do_not_stop_a_run() -> None:
    """A definition with nothing but warnings is loaded."""
    assert loads('kernel = "k"\ncmdline = "quiet"\n').cmdline == "quiet"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The near name is offered; a folder is not a definition."""
    (tmp_path / "hello.toml").write_text("")
    with pytest.raises(UsageError, match="no such file") as error:
        load(str(tmp_path / "helo.toml"))
    assert "hello.toml" in error.value.hint
    with pytest.raises(UsageError, match="directory"):
        load(str(tmp_path))


def test_a_file_that_cannot_be_read() -> None:
    """An I/O error names the file and is no traceback."""
    with pytest.raises(HostIoError, match="/proc/self/mem"):
        inspect("/proc/self/mem")


def test_a_right_definition_imports_nothing_heavy() -> None:
    """Positions, suggestions, jsonschema, logging and argparse stay out of a start that needs none."""
    heavy = (
        "tree_sitter", "jsonschema", "structlog", "logging", "argparse", "difflib", "asyncio", "dataclasses",
        "pathlib", "tempfile", "subprocess", "runner.definition.positions", "runner.definition.syntax",
    )  # fmt: skip
    code = (
        "import sys\nfrom runner.definition.load import loads\n"
        f"loads({HOWTO!r})\nprint([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _found(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def _found(code: str) -> str:
    """The code with this checkout on its path: -I and -S leave out what editable installs import."""
    import runner

    root = os.path.dirname(os.path.dirname(os.path.abspath(runner.__file__)))
    return f"import sys\nsys.path.insert(0, {root!r})\n{code}"
