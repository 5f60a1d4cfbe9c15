"""A disk image: opened and locked by the supervisor, served by the native data path.

``format`` is what the definition says and never looked for in the file (device-bugs 17).  A qcow2 image on
our own engine is served by :mod:`runner.backends.qcow2`.
"""

from __future__ import annotations

import errno
import os
import stat

from runner.backends import Opened
from runner.backends.joined import JoinedQueues
from runner.devices.ports import OffloadedQueue
from runner.errors import HostError, HostIoError, HostPermissionError
from runner.typed import TYPE_CHECKING, Any, Callable, Sequence
from runner.wire import virtio

if TYPE_CHECKING:
    from runner.engine.kvm.attachment import DeviceAttachment
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph
    from runner.host.disk import DiskQueues

SECTOR = 512
BLKSSZGET = 0x1268  # linux/fs.h
ALIGNMENTS = (512, 1024, 2048, 4096)
BLK_FLUSH_FEATURE = 1 << 9
DEVICE_FEATURES = (1 << 24) - 1  # what the device itself decides: the data path knows it all


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open, lock and measure the image; an ephemeral one gets its overlay."""
    ours = graph.engine.name == "kvm"  # QEMU reads the format and makes the overlay itself
    if ours and claim.options.get("format") == "qcow2":
        from runner.backends import qcow2

        return qcow2.open_host(claim, graph)
    path = image_path(claim)
    ephemeral = bool(claim.options.get("ephemeral"))
    readonly = bool(claim.options.get("readonly"))
    fd = open_image(path, writable=not (ephemeral or readonly), direct=bool(claim.options.get("direct")))
    try:
        from runner.host.image_lock import lock

        lock(fd, path, exclusive=not (ephemeral or readonly))
        sector = sector_size(fd, path, direct=bool(claim.options.get("direct")))
        fds = {claim.name: fd}
        size = image_size(fd, path) // sector * sector
        if ephemeral and ours:
            fds[f"{claim.name}:overlay"] = open_overlay(size)
    except BaseException:
        os.close(fd)
        raise
    values = {"capacity": size, "block_size": max(block_size(fd), sector), "sector": sector}
    values["device"] = is_device(fd)
    return Opened(fds, {claim.name: values}, f"{claim.name}: {path}", lambda: _close(fds))  # type: ignore[dict-item]


def image_path(claim: BackendClaim) -> str:
    """Where the definition's path leads on this host."""
    path: Any = claim.options["path"]
    return str(path["resolved"])


def open_image(path: str, *, writable: bool, direct: bool) -> int:
    """Open an image; each way it fails has its own words.  A read-only disk is opened read-only."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | (os.O_DIRECT if direct else 0)
    try:
        return os.open(path, flags)
    except PermissionError:
        verb = "written" if writable else "read"
        raise HostPermissionError(f"{path} may not be {verb} by this user", hint=f"ls -l {path}") from None
    except OSError as error:
        hint = "this file system has no O_DIRECT: leave direct out" if direct and error.errno == 22 else ""
        raise HostError(f"{path} cannot be opened: {error.strerror}", hint=hint) from None


def image_size(fd: int, path: str) -> int:
    """Bytes of a file or a block device; a disk has at least one sector, and whole ones."""
    size = os.lseek(fd, 0, os.SEEK_END)
    if size < SECTOR:
        raise HostError(f"{path} is {size} bytes long: no disk", hint=f"truncate -s 1G {path}")
    return size // SECTOR * SECTOR


def sector_size(fd: int, path: str, *, direct: bool) -> int:
    """The smallest block that can be read or written: a disk's own, or the 512 bytes that an image file has.

    Raises HostError when the blocks of an image file cannot be had past the page cache: with
    blocks of another size for the guest its partition table would mean something else.
    """
    if is_device(fd):
        import fcntl

        return int.from_bytes(fcntl.ioctl(fd, BLKSSZGET, bytes(4)), "little")
    aligned = direct_alignment(fd) if direct else SECTOR
    if aligned != SECTOR:
        raise HostError(
            f"{path} lies where O_DIRECT takes blocks of {aligned} bytes, and a disk image has blocks of 512",
            hint="leave direct out, or put the image on a disk with sectors of 512 bytes",
        )
    return SECTOR


def is_device(fd: int) -> bool:
    """Whether it is a block device of the host and no image file."""
    return stat.S_ISBLK(os.fstat(fd).st_mode)


def direct_alignment(fd: int) -> int:
    """Bytes that an O_DIRECT request has to be a multiple of: the least that is not refused.

    (Asking has its gaps: STATX_DIOALIGN is Linux 6.1's, and not of every file system.)
    """
    import mmap

    with mmap.mmap(-1, ALIGNMENTS[-1]) as page:
        for size in ALIGNMENTS:
            with memoryview(page) as whole, whole[:size] as part:
                try:
                    os.preadv(fd, [part], 0)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise HostIoError(f"the image cannot be read: {error.strerror}") from None
                else:
                    return size
    return ALIGNMENTS[-1]


def block_size(fd: int) -> int:
    """What the host writes without reading first, 512 or 4096."""
    return 4096 if os.fstat(fd).st_blksize >= 4096 and os.lseek(fd, 0, os.SEEK_END) % 4096 == 0 else SECTOR


def overlay_folder() -> str:
    """Where the writes to an ephemeral disk go: a disk, not memory, by convention."""
    return os.environ.get("VMRUN_OVERLAY_DIR") or "/var/tmp"  # noqa: S108


def open_overlay(size: int) -> int:
    """A nameless sparse file that is gone with its last descriptor."""
    where = overlay_folder()
    try:
        fd = os.open(where, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.truncate(fd, size)
    except OSError as error:
        raise HostIoError(
            f"no overlay for an ephemeral disk can be made in {where}: {error.strerror}",
            hint="VMRUN_OVERLAY_DIR names another place",
        ) from None
    return fd


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> Any:
    """The disk as the device sees it."""
    if claim.options.get("format") == "qcow2":
        from runner.backends import qcow2

        return qcow2.attach(claim, resources, machine)
    return NativeDisk(claim, resources, machine)


class NativeDisk:
    """A raw image (``QueueOffload`` with a ``DiskShape``)."""

    config = b""

    def __init__(self, claim: BackendClaim, resources: Resources, machine: Machine) -> None:
        facts: Any = resources.values[claim.name]
        self.capacity: int = facts["capacity"]
        self.block_size: int = facts["block_size"]
        self.sector: int = facts["sector"]
        self.readonly = bool(claim.options.get("readonly"))
        self._direct = bool(claim.options.get("direct"))
        self._overlay = resources.fds.get(f"{claim.name}:overlay", -1)
        self._fd = resources.fds[claim.name]
        self.discards = not self.readonly
        self.features = DEVICE_FEATURES | virtio.RING_FEATURES
        self.on_broken: Callable[[str], None] | None = None
        self._joined = JoinedQueues(claim.name, machine)
        self._queues: DiskQueues | None = None
        self._told = 0

    def join(self, attachment: DeviceAttachment) -> None:
        """The device is known: make its queues now, before the process gives its rights away."""
        from runner.host.disk import DiskQueues

        node, machine = attachment.node, self._joined.machine
        count = node.options.get("queues", 1)
        assert isinstance(count, int)
        self._joined.attachment = attachment
        self._queues = DiskQueues(
            machine.ram,
            self._fd,
            queues=count,
            capacity=self.capacity,
            readonly=self.readonly,
            discards=self.discards,
            overlay=self._overlay,
            serial=str(node.options.get("serial") or "").encode(),
            align=self.sector if self._direct else 0,
        )
        machine.loop.add_reader(self._queues.notice, self._noticed)

    def start(self, features: int, queues: Sequence[OffloadedQueue]) -> None:
        """Hand every queue's doorbell and interrupt to its thread."""
        from runner.host.ring import RingAddresses

        assert self._queues is not None
        for queue in queues:
            kick, call = self._joined.take(queue)
            self._queues.start(
                RingAddresses(queue.number, queue.size, queue.descriptors, queue.driver, queue.device),
                kick=kick,
                call=call,
                indirect=bool(features & virtio.F_INDIRECT_DESC),
                event_idx=bool(features & virtio.F_EVENT_IDX),
                write_through=not features & BLK_FLUSH_FEATURE,
                on_broken=self._broken,
            )
        self._joined.kick_all()

    def stop(self, done: Callable[[], None]) -> None:
        """Requests that are under way are completed first."""
        assert self._queues is not None
        self._queues.stop()
        self._joined.release()
        done()

    def kick(self, number: int) -> None:
        """Wake the queue's thread."""
        self._joined.kick(number)

    def close(self) -> None:
        """The end of the machine."""
        self.stop(lambda: None)
        assert self._queues is not None
        self._queues.close()

    def _noticed(self) -> None:
        """Requests have failed: the guest knows, and the log hears of it."""
        assert self._queues is not None
        os.eventfd_read(self._queues.notice)
        count, number = self._queues.errors()
        reason = os.strerror(number)
        requests = f"{count - self._told} requests" if count - self._told != 1 else "a request"
        device = self._joined.name.partition(".")[2]  # of [disks.NAME]
        self._joined.machine.log("warning", "disk-error", device=device, request=requests, reason=reason)
        self._told = count

    def _broken(self, queue: int, number: int) -> None:
        """From the queue's thread: the driver broke a rule of the ring."""

        def tell() -> None:
            if self.on_broken is not None:
                self.on_broken(f"queue {queue} of {self._joined.name}: {os.strerror(number)}")

        self._joined.later(tell)
