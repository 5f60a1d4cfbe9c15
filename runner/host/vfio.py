"""VFIO as typed objects: container, group, device (linux/vfio.h, reference/vfio.md "Engine side").

Group and container files are opened by the supervisor; everything here works on descriptors.
"""

from __future__ import annotations

import errno
import os
import struct

from runner.errors import HostError
from runner.host.native._native import ffi, lib
from runner.light import suppress
from runner.typed import Any, Mapping, NamedTuple, Sequence

PAGE = 4096
INTX, MSI, MSIX = lib.VFIO_PCI_INTX_IRQ_INDEX, lib.VFIO_PCI_MSI_IRQ_INDEX, lib.VFIO_PCI_MSIX_IRQ_INDEX
ERR, REQ = lib.VFIO_PCI_ERR_IRQ_INDEX, lib.VFIO_PCI_REQ_IRQ_INDEX
ROM = lib.VFIO_PCI_ROM_REGION_INDEX
KVM_DEVICE = lib.KVM_DEV_TYPE_VFIO
_BUS_FUNCTIONS = 256  # 32 slots of 8 functions
_INFO_ROOM = 4096  # region info with every capability that today's kernels have
_CAP_HEADER = struct.Struct("<HHI")  # id, version, next
_AREA = struct.Struct("<QQ")

# What each failure means in its place, and what to do about it.
_TYPE_HINTS = {
    errno.EPERM: "this host does not remap interrupts: allow_unsafe_interrupts says what that takes",
}
_MAP_HINTS = {
    errno.ENOMEM: "raise the locked-memory limit (ulimit -l), or run as root; vmrun doctor tells the limit",
    errno.EINVAL: "the IOMMU cannot reach that far or keeps a part of it: give the guest less memory",
    errno.ENOSPC: "VFIO maps no more regions: modprobe vfio_iommu_type1 dma_entry_limit=65535",
    errno.EEXIST: "a part of it is mapped already; please report this",
}
_OPEN_HINTS = {
    errno.EPERM: "the group is not viable: vmrun host list shows its members and their drivers",
    errno.EBUSY: "somebody else has it open",
    errno.ENODEV: "it is not on vfio-pci any more: vmrun host list",
}
_WIRE_HINTS = {
    errno.EBUSY: "it shares its interrupt line with another device and cannot mask it by itself: "
    "unbind the other one, or use a slot with a line of its own",
}


class VfioRegion(NamedTuple):
    """One region of a device: a BAR, the ROM, or configuration space.

    ``offset`` is where pread and pwrite on the device find it; ``areas`` are the (offset, size)
    parts that can be mapped, ``msix_mappable`` says that the MSI-X page is among them.
    """

    number: int
    size: int
    offset: int
    flags: int
    areas: tuple[tuple[int, int], ...] = ()
    msix_mappable: bool = False

    @property
    def writable(self) -> bool:
        """Whether the host lets anybody write to it."""
        return bool(self.flags & lib.VFIO_REGION_INFO_FLAG_WRITE)


def _call(fd: int, request: int, argument: Any, what: str, hints: Mapping[int, str] = {}) -> int:  # noqa: B006
    call = lib.vmrun_ioctl_value if isinstance(argument, int) else lib.vmrun_ioctl
    return _checked(call(fd, request, argument), what, hints)


def _checked(result: int, what: str, hints: Mapping[int, str] = {}) -> int:  # noqa: B006
    """The result of a call, or the HostError that it means."""
    if result < 0:
        words = f"VFIO: {what} failed: {os.strerror(-result)} (errno {-result})"
        raise HostError(words, hint=hints.get(-result, ""))
    return result


class Container:
    """One IOMMU address space, shared by every group of a machine."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._ready = False
        self._groups: list[int] = []
        self._mapped: list[tuple[int, int]] = []
        version = _call(fd, lib.VFIO_GET_API_VERSION, 0, "asking for the API version")
        if version != lib.VFIO_API_VERSION:
            raise HostError(f"VFIO speaks API version {version}; vmrun knows {lib.VFIO_API_VERSION}")

    def add(self, group: int, name: str) -> None:
        """Put a group into the container; the first one decides the IOMMU type."""
        status = ffi.new("struct vfio_group_status *", {"argsz": ffi.sizeof("struct vfio_group_status")})
        _call(group, lib.VFIO_GROUP_GET_STATUS, status, f"asking for the state of {name}")
        if not status.flags & lib.VFIO_GROUP_FLAGS_VIABLE:
            raise HostError(
                f"VFIO: {name} is not viable: a member is bound to a driver of the host",
                hint="vmrun host list shows the members of each group and their drivers",
            )
        holder = ffi.new("int *", self.fd)
        _call(group, lib.VFIO_GROUP_SET_CONTAINER, holder, f"putting {name} into the container")
        self._groups.append(group)
        if not self._ready:
            self._set_type()
            self._ready = True

    def _set_type(self) -> None:
        if not lib.vmrun_ioctl_value(self.fd, lib.VFIO_CHECK_EXTENSION, lib.VFIO_TYPE1v2_IOMMU) > 0:
            raise HostError("VFIO: this host has no type 1 IOMMU backend", hint="modprobe vfio_iommu_type1")
        _call(self.fd, lib.VFIO_SET_IOMMU, int(lib.VFIO_TYPE1v2_IOMMU), "setting the IOMMU type", _TYPE_HINTS)

    def map(self, iova: int, size: int, host_address: int) -> None:
        """Let the devices reach ``size`` bytes at ``host_address`` as ``iova``; pins them."""
        request = ffi.new("struct vfio_iommu_type1_dma_map *")
        request.argsz = ffi.sizeof("struct vfio_iommu_type1_dma_map")
        request.flags = lib.VFIO_DMA_MAP_FLAG_READ | lib.VFIO_DMA_MAP_FLAG_WRITE
        request.vaddr, request.iova, request.size = host_address, iova, size
        what = f"pinning {size >> 20} MiB of guest memory at {iova:#x} for DMA"
        _call(self.fd, lib.VFIO_IOMMU_MAP_DMA, request, what, _MAP_HINTS)
        self._mapped.append((iova, size))

    def unmap_all(self) -> None:
        """Take the devices' sight of memory away again."""
        while self._mapped:
            request = ffi.new("struct vfio_iommu_type1_dma_unmap *")
            request.argsz = ffi.sizeof("struct vfio_iommu_type1_dma_unmap")
            request.iova, request.size = self._mapped.pop()
            lib.vmrun_ioctl(self.fd, lib.VFIO_IOMMU_UNMAP_DMA, request)

    def close(self) -> None:
        """Unmap, and let the groups go."""
        self.unmap_all()
        while self._groups:
            lib.vmrun_ioctl_value(self._groups.pop(), lib.VFIO_GROUP_UNSET_CONTAINER, 0)


class KvmGroups:
    """KVM's own VFIO device, which hears of each group (Documentation/virt/kvm/devices/vfio.rst)."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def add(self, group: int) -> None:
        """Before a device of the group is opened."""
        result = self._set(lib.KVM_DEV_VFIO_GROUP_ADD, group)
        if result < 0:
            raise HostError(f"KVM's VFIO device refuses the group: {os.strerror(-result)}")

    def remove(self, group: int) -> None:
        """At the end; whatever fails of it, the kernel does when the descriptor goes."""
        self._set(lib.KVM_DEV_VFIO_GROUP_DEL, group)

    def _set(self, action: int, group: int) -> int:
        number = ffi.new("int32_t *", group)
        request = ffi.new("struct kvm_device_attr *")
        request.group, request.attr = lib.KVM_DEV_VFIO_GROUP, action
        request.addr = int(ffi.cast("uintptr_t", number))
        result: int = lib.vmrun_ioctl(self._fd, lib.KVM_SET_DEVICE_ATTR, request)
        return result

    def close(self) -> None:
        os.close(self._fd)


class VfioDevice:
    """One PCI function through VFIO."""

    def __init__(self, group: int, address: str) -> None:
        name = ffi.new("char[]", address.encode())
        self.address = address
        request, argument = lib.VFIO_GROUP_GET_DEVICE_FD, ffi.cast("char *", name)
        self.fd = _call(group, request, argument, f"opening {address}", _OPEN_HINTS)
        info = ffi.new("struct vfio_device_info *", {"argsz": ffi.sizeof("struct vfio_device_info")})
        _call(self.fd, lib.VFIO_DEVICE_GET_INFO, info, f"asking about {address}")
        self.can_reset = bool(info.flags & lib.VFIO_DEVICE_FLAGS_RESET)
        count = min(int(info.num_regions), int(lib.VFIO_PCI_CONFIG_REGION_INDEX) + 1)
        self.regions = tuple(self._region(index) for index in range(count))
        self.config = self.regions[int(lib.VFIO_PCI_CONFIG_REGION_INDEX)]

    def _region(self, index: int) -> VfioRegion:
        table = ffi.new("char[]", _INFO_ROOM)
        result = lib.vmrun_vfio_region(self.fd, index, table, _INFO_ROOM)
        if result < 0:
            return VfioRegion(index, 0, 0, 0)  # a region this device has not
        info = ffi.cast("struct vfio_region_info *", table)
        region = VfioRegion(index, info.size, info.offset, info.flags)
        if not info.flags & lib.VFIO_REGION_INFO_FLAG_MMAP:
            return region
        region = region._replace(areas=((0, info.size),))
        if info.flags & lib.VFIO_REGION_INFO_FLAG_CAPS:
            region = _with_capabilities(region, bytes(ffi.buffer(table, _INFO_ROOM)), info.cap_offset)
        return region

    def read(self, region: VfioRegion, offset: int, size: int) -> int:
        """A register, little-endian; all ones when the device does not answer."""
        try:
            data = os.pread(self.fd, size, region.offset + offset)
        except OSError:
            data = b""
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write(self, region: VfioRegion, offset: int, size: int, value: int) -> None:
        """Store into a register; a device that does not answer loses it."""
        with suppress(OSError):
            os.pwrite(self.fd, value.to_bytes(size, "little"), region.offset + offset)

    def map_area(self, region: VfioRegion, offset: int, size: int) -> int:
        """Map a part of a region into this process; returns its address here."""
        at = lib.vmrun_map_shared(self.fd, size, region.offset + offset, int(region.writable))
        if at == ffi.NULL:
            raise HostError(
                f"VFIO: mapping region {region.number} of {self.address} failed: {os.strerror(ffi.errno)}"
            )
        return int(ffi.cast("uintptr_t", at))

    def vectors(self, index: int) -> int:
        """How many interrupts of this kind (INTx, MSI, MSI-X) the function has."""
        info = ffi.new(
            "struct vfio_irq_info *", {"argsz": ffi.sizeof("struct vfio_irq_info"), "index": index}
        )
        if lib.vmrun_ioctl(self.fd, lib.VFIO_DEVICE_GET_IRQ_INFO, info) < 0:
            return 0
        return int(info.count)

    def unmap_area(self, address: int, size: int) -> None:
        """Give back what :meth:`map_area` gave."""
        lib.vmrun_unmap(ffi.cast("void *", address), size)

    def set_triggers(self, index: int, fds: Sequence[int]) -> int:
        """Signal these eventfds from vector 0 on; enables the kind of interrupt.

        Returns how many vectors the host gave: fewer when it has no more.  Raises HostError.
        """
        missing = self._irqs(index, lib.VFIO_IRQ_SET_ACTION_TRIGGER, fds)
        if not missing:
            return len(fds)
        fds = fds[:missing]  # the kernel enabled none, and says how many it has
        if self._irqs(index, lib.VFIO_IRQ_SET_ACTION_TRIGGER, fds):
            raise HostError(f"VFIO: the host has no interrupt vectors left for {self.address}")
        return len(fds)

    def set_unmask(self, index: int, fd: int) -> None:
        """Unmask a level interrupt whenever ``fd`` is signalled (vfio.md, engine 8)."""
        self._irqs(index, lib.VFIO_IRQ_SET_ACTION_UNMASK, [fd])

    def _irqs(self, index: int, action: int, fds: Sequence[int]) -> int:
        flags = lib.VFIO_IRQ_SET_DATA_EVENTFD | action
        result: int = lib.vmrun_vfio_irqs(self.fd, index, flags, 0, ffi.new("int[]", list(fds)), len(fds))
        wired = index == INTX
        what = "enabling the interrupt line" if wired else f"enabling {len(fds)} interrupt vectors"
        return _checked(result, f"{what} of {self.address}", _WIRE_HINTS if wired else {})

    def disable(self, index: int) -> None:
        """Switch this kind of interrupt off; one that is off already is no error."""
        flags = lib.VFIO_IRQ_SET_DATA_NONE | lib.VFIO_IRQ_SET_ACTION_TRIGGER
        lib.vmrun_vfio_irqs(self.fd, index, flags, 0, ffi.NULL, 0)

    def reset(self) -> bool:
        """Reset the function; False when the host cannot, or the device refuses."""
        return self.can_reset and lib.vmrun_ioctl_value(self.fd, lib.VFIO_DEVICE_RESET, 0) == 0

    def bus_reset(self, groups: Mapping[int, int]) -> bool:
        """Reset its slot or bus, where every function there is ours; False when that cannot be.

        ``groups``: number to descriptor of all groups that this machine has.
        """
        fds = self._fds_of_bus(groups)
        return bool(fds) and lib.vmrun_vfio_bus_reset(self.fd, fds, len(fds)) == 0

    def _fds_of_bus(self, groups: Mapping[int, int]) -> list[int]:
        """Each group on the bus once, since VFIO takes no other; none when one of them is not ours."""
        found = ffi.new("uint32_t[]", _BUS_FUNCTIONS)
        count = lib.vmrun_vfio_affected(self.fd, found, _BUS_FUNCTIONS)
        affected = dict.fromkeys(found[0 : max(count, 0)])
        return [groups[number] for number in affected] if affected.keys() <= groups.keys() else []

    def resets(self, groups: Mapping[int, int]) -> bool:
        """Whether there is any way to reset it."""
        return self.can_reset or bool(self._fds_of_bus(groups))

    def close(self) -> None:
        """Give the function's descriptor back."""
        os.close(self.fd)


def _with_capabilities(region: VfioRegion, table: bytes, offset: int) -> VfioRegion:
    """Follow the chain of a region's capabilities; it can only go forward, so it ends."""
    while offset and offset + _CAP_HEADER.size <= len(table):
        kind, _version, following = _CAP_HEADER.unpack_from(table, offset)
        if kind == lib.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
            (count,) = struct.unpack_from("<I", table, offset + 8)
            areas = [_AREA.unpack_from(table, offset + 16 + 16 * number) for number in range(count)]
            region = region._replace(areas=tuple((at, size) for at, size in areas if size))
        elif kind == lib.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE:
            region = region._replace(msix_mappable=True)
        if following <= offset:
            break
        offset = following
    return region
