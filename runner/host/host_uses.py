"""What the host lives on, told of the PCI functions that it goes through.

A disk is followed from its mount, swap or device-mapper stack down to the hardware by the
``slaves`` of sysfs, an interface by its ``lower_*`` links; a function is named by every
device path that leads through it, so a bridge has the uses of everything below.
"""

from __future__ import annotations

from runner.host.sysfs import Sysfs, names_or, text_or
from runner.hostfacts import is_address
from runner.typed import Iterator

_VIRTIO_FOLDERS = {"9p": "9pnet_virtio", "virtiofs": "virtiofs"}  # file system to driver
_DEPTH = 16  # no sane stack is deeper, and a broken one may be circular


def host_uses(sysfs: Sysfs) -> dict[str, tuple[str, ...]]:
    """PCI address to what the host needs through it: "mount /", "swap", "default route (eth0)"."""
    uses: dict[str, dict[str, None]] = {}
    for words, path in _used_paths(sysfs):
        for address in functions_on(sysfs, path):
            uses.setdefault(address, {})[words] = None
    return {address: tuple(words) for address, words in uses.items()}


def _used_paths(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    """(use in words, device path in /sys/devices)."""
    for words, name in [*_mounts(sysfs), *_swaps(sysfs), *_btrfs_members(sysfs), *_stacks(sysfs)]:
        for leaf in _leaves(sysfs, sysfs.realpath(name), _DEPTH):
            yield words, leaf
    yield from _consoles(sysfs)
    for interface in _default_routes(sysfs):
        for leaf in _lower_interfaces(sysfs, interface, _DEPTH):
            yield f"default route ({interface})", leaf


def functions_on(sysfs: Sysfs, path: str) -> list[str]:
    """PCI addresses on a device path, the outermost bridge first."""
    if "/nvme-subsystem/" in path:  # native multipath: the namespace hangs below no controller
        subsystem = "/".join(path.split("/")[:6])
        controllers = [f"{subsystem}/{name}" for name in names_or(sysfs, subsystem)]
        paths = {sysfs.realpath(link) for link in controllers}
        return [one for real in sorted(paths) if "/nvme-subsystem/" not in real for one in _on(real)]
    return _on(path)


def _on(path: str) -> list[str]:
    return [part for part in path.split("/") if is_address(part)]


def _mounts(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    """(use, /sys path of a block or virtio device) of each mount that we or the first process see."""
    for fields in _mount_table(sysfs):
        where, (kind, source) = f"mount {fields[4]}", fields[fields.index("-", 6) + 1 :][:2]
        if not fields[2].startswith("0:"):
            yield where, f"/sys/dev/block/{fields[2]}"
        elif kind in _VIRTIO_FOLDERS:
            for device in _virtio_folders(sysfs, kind, source):
                yield where, device
        else:
            for node in source.split(":"):  # file systems of several disks name them so, or only one
                if node.startswith("/dev/"):
                    yield where, _block_path(sysfs, node)


def _mount_table(sysfs: Sysfs) -> list[list[str]]:
    """Fields of mountinfo (proc(5)), a mount once; in a chroot the first process sees more than we."""
    mounts: dict[str, list[str]] = {}
    for process in ("self", "1"):
        for line in text_or(sysfs, f"/proc/{process}/mountinfo").splitlines():
            fields = line.split(" ")
            if "-" in fields[6:-2]:
                mounts.setdefault(fields[0], fields)
    return list(mounts.values())


def _virtio_folders(sysfs: Sysfs, kind: str, tag: str) -> Iterator[str]:
    """The virtio device behind a mounted host folder: by its tag where sysfs tells that, else any."""
    driver = f"/sys/bus/virtio/drivers/{_VIRTIO_FOLDERS[kind]}"
    for name in names_or(sysfs, driver):
        told = text_or(sysfs, f"{driver}/{name}/mount_tag", tag).rstrip("\0")
        if name.startswith("virtio") and told == tag:
            yield f"{driver}/{name}"


def _block_path(sysfs: Sysfs, node: str) -> str:
    return "/sys/class/block/" + sysfs.realpath(node).rpartition("/")[2]


def _swaps(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    for line in text_or(sysfs, "/proc/swaps").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 1 and fields[1] == "partition":
            yield "swap", _block_path(sysfs, fields[0])


def _btrfs_members(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    for uuid in names_or(sysfs, "/sys/fs/btrfs"):
        for member in names_or(sysfs, f"/sys/fs/btrfs/{uuid}/devices"):
            yield f"btrfs {uuid}", f"/sys/class/block/{member}"


def _stacks(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    """Device-mapper, LUKS and RAID devices that exist, mounted or not."""
    for name in names_or(sysfs, "/sys/block"):
        path = f"/sys/block/{name}"
        if not names_or(sysfs, f"{path}/slaves"):
            continue
        label = text_or(sysfs, f"{path}/dm/name", name)
        kind = "LUKS" if text_or(sysfs, f"{path}/dm/uuid").startswith("CRYPT-") else "volume"
        yield f"{kind} {label}", path


def _consoles(sysfs: Sysfs) -> Iterator[tuple[str, str]]:
    """Where the kernel writes its messages: a serial card, or a hypervisor's console."""
    for name in text_or(sysfs, "/sys/class/tty/console/active").split():
        yield f"console {name}", sysfs.realpath(f"/sys/class/tty/{name}")
        if name.startswith("hvc"):
            for port in names_or(sysfs, "/sys/class/virtio-ports"):
                yield f"console {name}", sysfs.realpath(f"/sys/class/virtio-ports/{port}")


def _leaves(sysfs: Sysfs, path: str, depth: int) -> Iterator[str]:
    """The device paths of the hardware below a block device."""
    disk = path.rpartition("/")[0] if sysfs.exists(f"{path}/partition") else path
    below = names_or(sysfs, f"{disk}/slaves")
    if not below or depth == 0:
        yield path
        return
    for name in below:
        yield from _leaves(sysfs, sysfs.realpath(f"{disk}/slaves/{name}"), depth - 1)


def _default_routes(sysfs: Sysfs) -> list[str]:
    """Interfaces that carry a default route, IPv4 or IPv6."""
    found: dict[str, None] = {}
    for line in text_or(sysfs, "/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000":
            found[fields[0]] = None
    for line in text_or(sysfs, "/proc/net/ipv6_route").splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            found[fields[9]] = None
    return list(found)


def _lower_interfaces(sysfs: Sysfs, interface: str, depth: int) -> Iterator[str]:
    """Device paths of an interface and of what it is a bond, bridge or VLAN of."""
    path = sysfs.realpath(f"/sys/class/net/{interface}")
    yield path
    if depth == 0:
        return
    for name in names_or(sysfs, path):
        if name.startswith("lower_"):
            yield from _lower_interfaces(sysfs, name[len("lower_") :], depth - 1)
