"""Words of other tools, and the keys that are meant by them.

Somebody who comes from Firecracker, cloud-hypervisor, QEMU or vmtest writes what they know
(conventions.md, "keys"); they are told our word instead of "unknown key" alone.  A target
is a key, or a dotted place when it is elsewhere than the foreign word suggests.
"""

from __future__ import annotations

from collections.abc import Iterable

FIRECRACKER = {
    "boot_source": "kernel initramfs cmdline",
    "kernel_image_path": "kernel",
    "boot_args": "cmdline",
    "initrd_path": "initramfs",
    "machine_config": "cpus memory",
    "vcpu_count": "count cpus",
    "mem_size_mib": "size memory",
    "smt": "topology cpus.topology.threads",
    "cpu_template": "model cpus.model",
    "track_dirty_pages": "memory",
    "huge_pages": "hugepages memory.hugepages",
    "drives": "disks",
    "drive_id": "disks.NAME",
    "path_on_host": "path",
    "is_read_only": "readonly",
    "is_root_device": "cmdline",
    "cache_type": "cache",
    "io_engine": "direct",
    "network_interfaces": "net",
    "iface_id": "net.NAME",
    "guest_mac": "mac",
    "host_dev_name": "tap",
    "guest_cid": "cid",
    "vsock_id": "vsock",
    "uds_path": "socket",
    "amount_mib": "balloon",
    "entropy": "rng",
    "logger": "--log",
}

CLOUD_HYPERVISOR = {
    "payload": "kernel initramfs cmdline",
    "disk": "disks",
    "device": "devices",
    "boot": "count",
    "boot_vcpus": "count cpus",
    "max_vcpus": "count cpus",
    "num_queues": "queues",
    "queue_size": "queues",
    "image_type": "format",
    "prefault_pages": "prefault",
    "mergeable": "merge",
    "hugepage_size": "hugepages",
    "host_mac": "mac",
    "iommu_segments": "iommu",
    "debug_console": "debugcon",
    "user_device": "devices",
}

QEMU = {
    "append": "cmdline",
    "initrd": "initramfs",
    "smp": "cpus",
    "m": "memory",
    "mem": "memory",
    "cpu": "model cpus.model",
    "drive": "disks",
    "hda": "disks",
    "hdb": "disks",
    "cdrom": "disks",
    "file": "path",
    "filename": "path",
    "if": "bus driver",
    "snapshot": "ephemeral",
    "netdev": "net",
    "nic": "net",
    "ifname": "tap",
    "macaddr": "mac",
    "hostfwd": "forwards",
    "chardev": "serial console",
    "monitor": "console",
    "nographic": "serial",
    "virtfs": "fs",
    "mount_tag": "tag",
    "fsdev": "fs",
    "accel": "engine",
    "enable_kvm": "engine",
    "machine": "engine",
    "addr": "slot",
    "sockets": "topology cpus.topology",
    "cores": "topology cpus.topology",
    "threads": "topology cpus.topology",
    "rombar": "rom",
    "romfile": "rom",
    "watchdog_action": "action watchdog",
    "isa_debugcon": "debugcon",
}

VMTEST = {
    "kernel_args": "cmdline",
    "num_cpus": "count cpus",
    "rootfs": "fs disks",
    "image": "path disks",
    "mounts": "fs",
    "mount": "fs",
    "host_path": "path",
    "writable": "readonly",
    "command": "run initramfs.run",
    "qemu_command": "engine",
    "extra_args": "engine",
    "target": "name",
    "vm": "name",
}

ELSEWHERE = {
    "vcpus": "count cpus",
    "ncpus": "count cpus",
    "nproc": "count cpus",
    "ram": "size memory",
    "kernel_path": "kernel",
    "bzimage": "kernel",
    "vmlinux": "kernel",
    "vmlinuz": "kernel",
    "params": "cmdline",
    "kernel_cmdline": "cmdline",
    "kernel_params": "cmdline",
    "ro": "readonly",
    "read_only": "readonly",
    "network": "net",
    "networks": "net",
    "interface": "net tap",
    "interfaces": "net",
    "share": "fs",
    "shares": "fs",
    "shared_folders": "fs",
    "filesystem": "fs",
    "filesystems": "fs",
    "random": "rng",
    "hypervisor": "engine",
    "deadline": "timeout",
    "pci": "devices",
    "passthrough": "devices",
    "hostname": "name",
    "temporary": "ephemeral",
    "throwaway": "ephemeral",
    "o_direct": "direct",
    "type": "driver format",
    "kind": "driver",
    "bdf": "host",
}

TOOLS = (
    ("Firecracker", FIRECRACKER),
    ("cloud-hypervisor", CLOUD_HYPERVISOR),
    ("QEMU", QEMU),
    ("vmtest", VMTEST),
    ("", ELSEWHERE),
)


def foreign(word: str) -> tuple[str, tuple[str, ...]] | None:
    """The tool that says ``word``, and what is meant here; None when nobody is known to."""
    plain = word.lower().replace("-", "_").lstrip("_")
    for tool, table in TOOLS:
        if plain in table:
            return tool, tuple(table[plain].split())
    return None


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that ``word`` was probably meant to be, or ""."""
    from difflib import get_close_matches

    table = {_plain(name): name for name in known}
    near = get_close_matches(_plain(word), list(table), n=1, cutoff=cutoff)
    return table[near[0]] if near else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def meant(word: str, known: Iterable[str]) -> tuple[str, str]:
    """``(suggestion, hint)`` for an unknown key where ``known`` keys would be accepted."""
    names = list(known)
    spoken = foreign(word)
    if spoken is None:
        return closest(word, names), ""
    tool, targets = spoken
    says = f"`{word}` is {tool}'s word" if tool else ""
    here = [target for target in targets if target in names]
    if len(here) > 1:
        return here[0], f"{says}; it is {_and(here)} here" if says else ""
    if here:
        return here[0], says
    near = closest(word, names, 0.8)
    if near:
        return near, ""
    there = [target for target in targets if "." in target or target.startswith("--")] or list(targets)
    return "", f"{says}; it is {_and(there)} here" if says else f"it is {_and(there)} here"


def _and(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
