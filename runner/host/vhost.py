"""vhost: the kernel serves virtqueues itself (linux/vhost.h, Documentation of vhost-net and -vsock)."""

from __future__ import annotations

import os

from runner.devices.ports import OffloadedQueue
from runner.host.memory import Ram
from runner.host.native._native import ffi, lib
from runner.typed import Any


class VhostDevice:
    """One open ``/dev/vhost-…``.  Every call raises OSError with vhost's errno."""

    def __init__(self, fd: int, ram: Ram) -> None:
        self.fd = fd
        self._ram = ram
        self._owned = False
        value = ffi.new("uint64_t *")
        self._call(lib.VHOST_GET_FEATURES, value)
        self.features = int(value[0])

    def own(self) -> None:
        """Become the owner (before the process confines itself: a kernel thread is made)."""
        if self._owned:
            return
        self._owned = True
        self._call(lib.VHOST_SET_OWNER, ffi.NULL)
        regions = self._ram.regions
        table = ffi.new("struct vhost_memory *", {"regions": len(regions)})
        table.nregions = len(regions)
        for row, region in zip(table.regions[0 : len(regions)], regions, strict=True):
            row.guest_phys_addr, row.memory_size = region.start, region.size
            row.userspace_addr = region.host_address
        self._call(lib.VHOST_SET_MEM_TABLE, table)

    def set_features(self, features: int) -> None:
        """What was negotiated, of what the kernel knows."""
        self._call(lib.VHOST_SET_FEATURES, ffi.new("uint64_t *", features & self.features))

    def set_queue(self, index: int, queue: OffloadedQueue, kick: int, call: int) -> None:
        """Give one ring with its two eventfds; ``index`` is vhost's own number for it."""
        self._call(lib.VHOST_SET_VRING_NUM, _state(index, queue.size))
        self._call(lib.VHOST_SET_VRING_BASE, _state(index, 0))
        addresses = ffi.new("struct vhost_vring_addr *", {"index": index})
        addresses.desc_user_addr = self._host(queue.descriptors, 16 * queue.size)
        addresses.avail_user_addr = self._host(queue.driver, 6 + 2 * queue.size)
        addresses.used_user_addr = self._host(queue.device, 6 + 8 * queue.size)
        self._call(lib.VHOST_SET_VRING_ADDR, addresses)
        self._call(lib.VHOST_SET_VRING_CALL, _file(index, call))
        self._call(lib.VHOST_SET_VRING_KICK, _file(index, kick))

    def drop_queue(self, index: int) -> None:
        """The kernel listens to this ring no longer."""
        self._call(lib.VHOST_SET_VRING_KICK, _file(index, -1))
        self._call(lib.VHOST_SET_VRING_CALL, _file(index, -1))

    def set_backend(self, index: int, fd: int) -> None:
        """vhost-net: serve the ring from this tap; -1: stop, and return when nothing is under way."""
        self._call(lib.VHOST_NET_SET_BACKEND, _file(index, fd))

    def set_cid(self, cid: int) -> None:
        """vhost-vsock: the guest's context id.  EADDRINUSE: another guest has it."""
        self._call(lib.VHOST_VSOCK_SET_GUEST_CID, ffi.new("uint64_t *", cid))

    def set_running(self, running: bool) -> None:
        """vhost-vsock: start or stop."""
        self._call(lib.VHOST_VSOCK_SET_RUNNING, ffi.new("int *", int(running)))

    def _host(self, address: int, length: int) -> int:
        return int(ffi.cast("uintptr_t", self._ram.pointer(address, length)))

    def _call(self, request: int, argument: Any) -> None:
        result = lib.vmrun_ioctl(self.fd, request, argument)
        if result < 0:
            raise OSError(-result, os.strerror(-result))


def _state(index: int, number: int) -> Any:
    return ffi.new("struct vhost_vring_state *", {"index": index, "num": number})


def _file(index: int, fd: int) -> Any:
    return ffi.new("struct vhost_vring_file *", {"index": index, "fd": fd})
