"""Boot the lab by hand: QEMU with nested KVM and a vIOMMU, one command inside, its exit status out."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmrun" / "lab"
HERE = Path(__file__).resolve().parent
CPU = "EPYC,+svm,+npt," + ",".join(
    "-" + missing
    for missing in "rdseed sha-ni fxsr-opt misalignsse 3dnowprefetch osvw topoext nrip-save xsavec".split()
)
CHECKOUT = HERE.parent.parent


def arguments(folder: Path, exit_fd: int) -> list[str]:
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot",
        "-M", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", CPU,
        "-smp", "2", "-m", os.environ.get("VMRUN_LAB_MEMORY", "8G"), "-device", "intel-iommu,intremap=on",
        "-kernel", str(CACHE / "vmlinux"), "-initrd", str(CACHE / "initramfs"),
        "-append", "console=ttyS0 intel_iommu=on iommu=pt panic=-1 transparent_hugepage=always "
        "random.trust_cpu=on mitigations=off loglevel=5",
        "-chardev", f"file,id=serial,path={folder}/console", "-serial", "chardev:serial",
        "-chardev", "stdio,id=work,signal=off", "-device", "virtio-serial-pci",
        "-device", "virtconsole,chardev=work",
        "-chardev", f"socket,id=exit,fd={exit_fd}", "-device", "isa-debugcon,iobase=0xf4,chardev=exit",
        "-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={folder},mount_tag=lab,security_model=none,multidevs=remap",
        "-device", "virtio-rng-pci",
        "-drive", f"if=none,id=sd0,format=raw,file={folder}/card.img", "-device", "sdhci-pci",
        "-device", "sd-card,drive=sd0",
        "-drive", f"if=none,id=nv0,format=raw,file={folder}/disk.img", "-device", "nvme,drive=nv0,serial=lab0",
        "-netdev", "user,id=n0,restrict=on", "-device", "e1000e,netdev=n0",
        "-device", "pcie-root-port,id=port0,chassis=1,slot=1",
        "-drive", f"if=none,id=nv1,format=raw,file={folder}/disk2.img",
        "-device", "nvme,drive=nv1,serial=lab1,bus=port0",
    ]  # fmt: skip
