"""Guest RAM on this host: reserved 2 MiB-aligned, huge where the host can, checked on every access.

Private anonymous memory takes transparent huge pages on every stock kernel; a memfd only where
``shmem_enabled`` allows it, which Debian's default does not.  So a memfd is taken where somebody
else has to map the memory too (``shared``, virtiofsd, vhost-user) or hugetlbfs pages are asked for.
"""

from __future__ import annotations

import os

from runner.devices.ports import GuestAddress, GuestMemoryFault
from runner.errors import HostError
from runner.host.native._native import ffi, lib
from runner.typed import Any, NamedTuple

HUGE = 2 << 20
PAGES = {"2M": 2 << 20, "1G": 1 << 30}


class RamRegion(NamedTuple):
    """One contiguous piece: guest-physical start, bytes, host pointer, file offset, the bytes.

    ``fd`` is the file behind it where that is not the RAM's own (persistent memory);
    ``private``: nobody else can have the same bytes by mapping it.
    """

    start: int
    size: int
    pointer: Any
    offset: int
    bytes_: memoryview
    fd: int = -1
    private: bool = False

    @property
    def host_address(self) -> int:
        """Where this process has it mapped."""
        return int(ffi.cast("uintptr_t", self.pointer))


class Ram:
    """All RAM of one guest, and the only way to its bytes (``GuestMemory``)."""

    def __init__(
        self, layout: tuple[tuple[int, int], ...], *, shared: bool = False, hugepages: str | None = None
    ) -> None:
        self.size = sum(size for _, size in layout)
        page = PAGES[hugepages] if hugepages else 0
        self.fd = -1
        if shared or page:
            self.fd = lib.vmrun_memfd(b"vmrun-guest", self.size, page)
            if self.fd < 0:
                raise _no_memory(self.size, -self.fd, hugepages)
        self.regions: tuple[RamRegion, ...] = ()
        offset = 0
        for start, size in layout:
            self.regions += (self._reserve(start, size, offset, max(page, HUGE), hugepages),)
            offset += size

    def _reserve(self, start: int, size: int, offset: int, align: int, hugepages: str | None) -> RamRegion:
        pointer = lib.vmrun_reserve(size, self.fd, offset, align, int(self.fd >= 0))
        if pointer == ffi.NULL:
            raise _no_memory(size, ffi.errno, hugepages)
        if not hugepages:  # advice only: a kernel without it gives small pages
            lib.vmrun_advise(pointer, size, lib.MADV_HUGEPAGE)
        return RamRegion(start, size, pointer, offset, memoryview(ffi.buffer(pointer, size)))

    def map_file(self, fd: int, start: int, size: int, *, private: bool) -> RamRegion:
        """A file as one more region; ``private``: the guest's stores stay in its own copy."""
        pointer = lib.vmrun_reserve(size, fd, 0, HUGE, int(not private))
        if pointer == ffi.NULL:
            raise HostError(f"a file cannot be mapped at {start:#x}: {os.strerror(ffi.errno)}")
        region = RamRegion(start, size, pointer, 0, memoryview(ffi.buffer(pointer, size)), fd, private)
        self.regions += (region,)
        return region

    def prefault(self) -> None:
        """Touch all of it now (MADV_POPULATE_WRITE, Linux 5.14)."""
        for region in self.regions:
            result = lib.vmrun_advise(region.pointer, region.size, lib.MADV_POPULATE_WRITE)
            if result < 0:
                raise _no_memory(region.size, -result, None)

    def merge(self) -> bool:
        """Let the kernel's samepage merging look at it; False: this kernel has none (madvise(2): EINVAL)."""
        advised = [lib.vmrun_advise(one.pointer, one.size, lib.MADV_MERGEABLE) for one in self.regions]
        return bool(min(advised) >= 0)

    def discard(self, start: int, size: int) -> None:
        """Whole pages back to the host, zero when they are next read; a memfd's are punched out of it."""
        advice = lib.MADV_REMOVE if self.fd >= 0 else lib.MADV_DONTNEED
        lib.vmrun_advise(self.pointer(start, size), size, advice)

    def region_of(self, address: int, length: int) -> RamRegion:
        """The one region that holds the range; GuestMemoryFault otherwise (device-bugs 5, 9)."""
        for region in self.regions:
            if region.start <= address and address + length <= region.start + region.size and length >= 0:
                return region
        raise GuestMemoryFault(address, length)

    def read(self, address: GuestAddress, length: int) -> bytes:
        """See :class:`runner.devices.ports.GuestMemory`."""
        return bytes(self.view(address, length))

    def write(self, address: GuestAddress, data: bytes | bytearray | memoryview) -> None:
        """See :class:`runner.devices.ports.GuestMemory`."""
        self.view(address, len(data))[:] = data

    def view(self, address: GuestAddress, length: int) -> memoryview:
        """See :class:`runner.devices.ports.GuestMemory`."""
        region = self.region_of(address, length)
        start = address - region.start
        return region.bytes_[start : start + length]

    def pointer(self, address: int, length: int) -> Any:
        """The C pointer of a range, for calls that move bytes without Python."""
        region = self.region_of(address, length)
        return ffi.cast("uint8_t *", region.pointer) + (address - region.start)

    def load(self, fd: int, address: int, size: int, offset: int) -> int:
        """Read a file straight into guest memory; returns bytes read (short at its end)."""
        count: int = lib.vmrun_pread(fd, self.pointer(address, size), size, offset)
        if count < 0:
            raise HostError(f"reading into guest memory at {address:#x} failed: {os.strerror(-count)}")
        return count

    def close(self) -> None:
        """Unmap; views that are still held keep nothing alive, so hold none."""
        for region in self.regions:
            lib.vmrun_unmap(region.pointer, region.size)
        if self.fd >= 0:
            os.close(self.fd)


def reserve_huge_pages(size: int, hugepages: str) -> str:
    """The command that gives this host huge pages for a guest of ``size`` bytes."""
    need = -(-size // PAGES[hugepages])
    kib = PAGES[hugepages] >> 10
    return f"echo {need} > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"


def _no_memory(size: int, number: int, hugepages: str | None) -> HostError:
    mib, why = size >> 20, os.strerror(number)
    if hugepages:
        return HostError(
            f"{mib} MiB of {hugepages} huge pages for the guest are not to be had: {why}",
            hint=reserve_huge_pages(size, hugepages),
        )
    return HostError(f"{mib} MiB of memory for the guest are not to be had: {why}")
