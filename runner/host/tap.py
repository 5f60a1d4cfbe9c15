"""Tap interfaces of this host (linux/if_tun.h, Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from runner.errors import HostError, HostPermissionError

TUNSETIFF, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D9, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0200, 0x0400
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU = 0x8913, 0x8914, 0x8922
IFF_UP = 1
NAME_SIZE = 16
HEADER_SIZE = 12  # struct virtio_net_hdr_mrg_rxbuf


def exists(name: str) -> bool:
    """Whether the host has an interface of this name."""
    return os.path.exists(f"/sys/class/net/{name}")


def open_queues(name: str, queues: int) -> tuple[str, list[int]]:
    """Open a tap (made by the kernel if it is not there); its name and a descriptor a queue."""
    fds: list[int] = []
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    try:
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            request = struct.pack(f"{NAME_SIZE}sH22x", name.encode(), flags)
            answer = fcntl.ioctl(fds[-1], TUNSETIFF, request)
            name = answer[:NAME_SIZE].rstrip(b"\0").decode()
            fcntl.ioctl(fds[-1], TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _refused(name, error) from None
    return name, fds


def bring_up(name: str, mtu: int) -> None:
    """Set the MTU and the interface up; needs CAP_NET_ADMIN."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, SIOCSIFMTU, struct.pack(f"{NAME_SIZE}si20x", name.encode(), mtu))
            request = struct.pack(f"{NAME_SIZE}sH22x", name.encode(), 0)
            (flags,) = struct.unpack_from("H", fcntl.ioctl(handle, SIOCGIFFLAGS, request), NAME_SIZE)
            fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack(f"{NAME_SIZE}sH22x", name.encode(), flags | IFF_UP))
        except OSError as error:
            raise _refused(name, error) from None


def set_offloads(fd: int, flags: int) -> None:
    """What the guest can receive: TUN_F_ bits."""
    fcntl.ioctl(fd, TUNSETOFFLOAD, flags)


def use_queue(fd: int, wanted: bool) -> None:
    """Let a queue of a multi-queue tap take frames, or not."""
    flags = IFF_ATTACH_QUEUE if wanted else IFF_DETACH_QUEUE
    fcntl.ioctl(fd, TUNSETQUEUE, struct.pack(f"{NAME_SIZE}sH22x", b"", flags))


def _refused(name: str, error: OSError) -> HostError:
    what = f"the tap `{name}`" if name else "a tap"
    if error.errno == errno.ENOENT:
        return HostError("this host has no /dev/net/tun", hint="modprobe tun")
    if error.errno in (errno.EPERM, errno.EACCES):
        return HostPermissionError(
            f"{what} may not be opened or made by this user",
            hint=f'sudo ip tuntap add {name or "tap0"} mode tap user $USER, or backend = "user"',
        )
    if error.errno == errno.EBUSY:
        return HostError(f"{what} is in use by another process", hint="another machine has it: vmrun ps")
    if error.errno == errno.EINVAL and name:
        return HostError(
            f"{what} cannot be opened: that interface is no tap, or has another number of queues",
            hint=f"ip -d link show {name}",
        )
    return HostError(f"{what} cannot be opened: {error.strerror}")
