"""The same guest for each virtual machine monitor: its command line, and how it is asked to end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

CMDLINE = "console=ttyS0 quiet"


class Disk(NamedTuple):
    """A raw image."""

    path: str


class Guest(NamedTuple):
    """What is booted.  ``run`` is the shell text of its work; the files are what vmrun makes of it."""

    name: str
    run: str
    kernel: str  # vmlinux
    kernel_given: str  # the bzImage it was taken from
    initramfs: str
    modules: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    cmdline: str = CMDLINE
    memory_mib: int = 256
    disk: str = ""
    tap: str = ""
    console: bool = False  # standard output is the virtio console, not the serial port


class Machine(NamedTuple):
    """A monitor: its name, and the words that boot a guest (``folder`` is for files it needs)."""

    name: str
    words: Callable[[Guest, str], list[str]]
    program: str
    patience: float = 0.0  # seconds between asking it to end and killing it
    own_kernel: bool = False  # it boots what it brings, with its own command line


def definition(guest: Guest) -> str:
    """The TOML file of a guest."""
    quoted = json.dumps  # a JSON string is a TOML string
    where = ("null", "tty") if guest.console else ("tty", "off")
    lines = [
        'kernel = { deb = "linux-image-cloud-amd64" }',
        f"cmdline = {quoted(guest.cmdline)}",
        "cpus = 1",
        f'memory = "{guest.memory_mib}M"',
        f'serial = "{where[0]}"',
        f'console = "{where[1]}"',
        "[initramfs]",
        f"run = {quoted(guest.run)}",
        f"modules = {quoted(list(guest.modules))}",
        f"files = {{ {', '.join(f'{quoted(to)} = {quoted(host)}' for to, host in guest.files)} }}",
    ]
    if guest.disk:
        lines += ["[disks.d0]", f"path = {quoted(guest.disk)}", 'format = "raw"']
    if guest.tap:
        lines += ["[net.n0]", 'backend = "tap"', f"tap = {quoted(guest.tap)}"]
    return "\n".join(lines) + "\n"


def _vmrun(guest: Guest, folder: str) -> list[str]:
    path = os.path.join(folder, f"{guest.name}.toml")
    with open(path, "w") as file:
        file.write(definition(guest))
    return ["vmrun", "-q", "--engine", "kvm", path]


def _qemu(guest: Guest, machine: str, cmdline: str) -> list[str]:
    words = [
        "qemu-system-x86_64", "-M", machine, "-accel", "kvm", "-cpu", "host",
        "-smp", "1", "-m", f"{guest.memory_mib}M",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-chardev", "stdio,id=out,signal=off", "-serial", "null" if guest.console else "chardev:out",
        "-kernel", guest.kernel, "-initrd", guest.initramfs, "-append", cmdline,
    ]  # fmt: skip
    if guest.console:
        words += ["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=out"]
    if guest.disk:
        words += [
            "-object", "iothread,id=io",
            "-drive", f"if=none,id=d0,format=raw,aio=io_uring,cache=writeback,file={guest.disk}",
            "-device", "virtio-blk-pci,drive=d0,iothread=io",
        ]  # fmt: skip
    if guest.tap:
        words += [
            "-netdev", f"tap,id=n0,ifname={guest.tap},script=no,downscript=no,vhost=on",
            "-device", "virtio-net-pci,netdev=n0,romfile=",
        ]  # fmt: skip
    return words


def _q35(guest: Guest, folder: str) -> list[str]:
    return _qemu(guest, "q35", guest.cmdline)


def _microvm(guest: Guest, folder: str) -> list[str]:
    # Without it the kernel measures the TSC against the PIT, which often hangs on this machine.
    return _qemu(guest, "microvm", f"{guest.cmdline} tsc_early_khz={tsc_khz()}")


def _minimal(guest: Guest, folder: str) -> list[str]:
    from bench.lower_bound import program

    return [program(), guest.kernel, guest.initramfs, str(guest.memory_mib), guest.cmdline]


def _kvmtool(guest: Guest, folder: str) -> list[str]:
    program = shutil.which("lkvm") or "lkvm"
    return [
        program, "run", "-k", guest.kernel_given, "-i", guest.initramfs, "-p", guest.cmdline,
        "-c", "1", "-m", str(guest.memory_mib), "--console", "serial",
    ]  # fmt: skip


def _cloud_hypervisor(guest: Guest, folder: str) -> list[str]:
    return [
        "cloud-hypervisor", "--kernel", guest.kernel, "--initramfs", guest.initramfs,
        "--cmdline", guest.cmdline, "--cpus", "boot=1", "--memory", f"size={guest.memory_mib}M",
        "--serial", "tty", "--console", "off",
    ]  # fmt: skip


def _microsandbox(guest: Guest, folder: str) -> list[str]:
    from bench import microsandbox

    return microsandbox.words(guest, folder)


def _firecracker(guest: Guest, folder: str) -> list[str]:
    path = os.path.join(folder, f"{guest.name}.firecracker.json")
    source = {"kernel_image_path": guest.kernel, "initrd_path": guest.initramfs, "boot_args": guest.cmdline}
    machine = {"vcpu_count": 1, "mem_size_mib": guest.memory_mib}
    with open(path, "w") as file:
        json.dump({"boot-source": source, "machine-config": machine, "drives": []}, file)
    return ["firecracker", "--no-api", "--config-file", path]


def tsc_khz() -> int:
    """What this machine's TSC runs at, as its kernel has found out."""
    with open("/proc/cpuinfo") as file:
        line = next(line for line in file if line.startswith("cpu MHz"))
    return round(float(line.split(":")[1]) * 1000)


VMRUN = Machine("vmrun", _vmrun, "vmrun", patience=10.0)
Q35 = Machine("QEMU q35", _q35, "qemu-system-x86_64")
MICROVM = Machine("QEMU microvm", _microvm, "qemu-system-x86_64")
MINIMAL = Machine("minimal VMM in C", _minimal, "")
OTHERS = (
    Machine("kvmtool", _kvmtool, "lkvm"),
    Machine("Cloud Hypervisor", _cloud_hypervisor, "cloud-hypervisor"),
    Machine("Firecracker", _firecracker, "firecracker"),
    Machine("microsandbox", _microsandbox, "msb", patience=10.0, own_kernel=True),
)


def installed(machine: Machine) -> bool:
    """Whether it can be measured here."""
    return not machine.program or shutil.which(machine.program) is not None
