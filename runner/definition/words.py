"""Words of other tools, and the keys that are meant by them.

Somebody who comes from Firecracker, cloud-hypervisor, QEMU or vmtest writes what they know
(decision 0039); they are told our word instead of "unknown key" alone.  A target
is a key, or a dotted place when it is elsewhere than the foreign word suggests.
"""

from __future__ import annotations

from runner.typed import Callable, Iterable

NOTHING = "= vmrun has nothing of the kind"
ONE_FILE = "= a file is one machine here: this table's keys stand at its top"
BY_NAME = "= `vmrun ps`, `stop` and `attach` find a machine by its name"
FIXED_DEPTH = "= how many requests a queue holds is fixed here; `queues` says how many there are"
COMMENT = "= such words stand in a comment here: # …"
"""Sentences, where there is no key to name."""

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
    "boot": "count cpus",
    "boot_vcpus": "count cpus",
    "max_vcpus": "count cpus",
    "num_queues": "queues",
    "queue_size": FIXED_DEPTH,
    "image_type": "format",
    "prefault_pages": "prefault",
    "mergeable": "merge",
    "hugepage_size": "hugepages",
    "host_mac": "mac",
    "iommu_segments": "iommu",
    "debug_console": "debugcon",
    "user_device": "devices",
    "thp": "hugepages",
    "hotplug_size": "balloon",
    "affinity_cpus": "affinity",
    "platform": "iommu",
    "tpm": NOTHING,
    "api_socket": BY_NAME,
    "landlock": NOTHING,
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
    "bios": NOTHING,
    "display": NOTHING,
    "vga": NOTHING,
    "no_reboot": NOTHING,
    "daemonize": "--detach",
    "incoming": NOTHING,
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
    "target": ONE_FILE,
    "vm": ONE_FILE,
    "uefi": NOTHING,
}

LIMA = {
    "vmtype": "engine",
    "arch": NOTHING,
    "os": NOTHING,
    "images": "disks kernel",
    "cputype": "model cpus.model",
    "mount_type": "driver fs.NAME.driver",
    "mounttype": "driver fs.NAME.driver",
    "additionaldisks": "disks",
    "portforwards": "forwards net.NAME.forwards",
    "port_forwards": "forwards net.NAME.forwards",
    "provision": "run initramfs.run",
    "probes": "expect",
    "ssh": "net.NAME.forwards",
    "firmware": NOTHING,
    "video": NOTHING,
    "audio": NOTHING,
    "containerd": NOTHING,
    "base": "extends",
    "param": "params",
    "nestedvirtualization": "cpus",
    "plain": NOTHING,
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
    "bootargs": "cmdline",
    "append_cmdline": "cmdline",
    "cpu_count": "count cpus",
    "num_vcpus": "count cpus",
    "vcpu": "count cpus",
    "currentmemory": "memory",
    "block": "disks",
    "blk": "disks",
    "rwdisk": "disks",
    "rwroot": "disks",
    "root": "disks cmdline",
    "shared_dir": "fs",
    "volume": "fs disks",
    "volumes": "fs disks",
    "storage": "disks",
    "harddisk": "disks",
    "include": "extends",
    "includes": "extends",
    "import": "extends",
    "imports": "extends",
    "inherits": "extends",
    "from": "extends",
    "parent": "extends",
    "template": "extends",
    "vars": "params",
    "variables": "params",
    "parameters": "params",
    "description": COMMENT,
    "version": COMMENT,
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
    ("Lima", LIMA),
    ("", ELSEWHERE),
)


SAME = {
    "none": "off",
    "nil": "off",
    "no": "off",
    "false": "off",
    "disabled": "off",
    "stdio": "tty",
    "mon:stdio": "tty",
    "tcg": "qemu",
}
"""Values of other tools, and ours."""


def same_as(word: str, known: Iterable[str]) -> str:
    """Our word for another tool's value, where it is among ``known``; else ""."""
    ours = SAME.get(word.lower(), "")
    return ours if ours in known else ""


def foreign(word: str) -> tuple[str, tuple[str, ...]] | None:
    """The tool that says ``word``, and what is meant here; None when nobody is known to."""
    plain = word.lower().replace("-", "_").lstrip("_")
    for tool, table in TOOLS:
        if plain in table:
            return tool, tuple(table[plain].split())
    return None


LONGEST = 100  # characters of a word that are compared


def closest(word: str, known: Iterable[str], cutoff: float = 0.62) -> str:
    """The known word that ``word`` was probably meant to be, or ""."""
    from difflib import get_close_matches

    from runner.definition.odd_characters import plain

    word = plain(word[:LONGEST])
    table = {_plain(name): name for name in known}
    near = get_close_matches(_plain(word), list(table), n=1, cutoff=cutoff)
    return table[near[0]] if near else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def meant(
    word: str, known: Iterable[str], elsewhere: Callable[[list[str]], str] | None = None
) -> tuple[str, str]:
    """``(suggestion, hint)`` for an unknown key where ``known`` keys would be accepted.

    ``elsewhere`` says of keys that are not among them where they stand.
    """
    names = list(known)
    spoken = foreign(word)
    if spoken is None:
        return closest(word, names), ""
    tool, targets = spoken
    says = f"`{word}` is {tool}'s word" if tool else ""
    if targets[0] == "=":
        sentence = " ".join(targets[1:])
        return "", f"{says}; {sentence}" if says else sentence
    here = [target for target in targets if target in names]
    if len(here) > 1:
        return here[0], f"{says}; it is {keys(here)} here" if says else ""
    if here:
        return here[0], says
    near = closest(word, names, 0.8)
    if near:
        return near, ""
    there = [target for target in targets if "." in target or target.startswith("--")]
    named = elsewhere(list(targets)) if elsewhere and not there else f"{keys(there or list(targets))} here"
    return "", f"{says}; it is {named}" if says else f"it is {named}"


def keys(names: list[str]) -> str:
    """Names of keys in a sentence: `` `a`, `b` and `c` ``."""
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
