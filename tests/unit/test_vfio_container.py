"""Container, groups and regions: what VFIO and KVM are asked, in which order (vfio.md, engine 1-4, 11)."""

from __future__ import annotations

import errno
import os
import resource
import struct
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import runner.backends.vfio
import runner.backends.vfio_container
import runner.host.vfio
from runner.backends.vfio_container import MachineContainer
from runner.errors import HostError
from runner.graph.model import BackendClaim, Claim
from runner.host.memory import RamRegion
from runner.host.native._native import ffi, lib
from runner.host.vfio import Container, KvmGroups, VfioDevice

CONTAINER, FIRST, SECOND, KVM_DEVICE = 50, 61, 62, 70
NAMES = {
    int(getattr(lib, name)): name
    for name in (
        "VFIO_GET_API_VERSION", "VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU", "VFIO_GROUP_GET_STATUS",
        "VFIO_GROUP_SET_CONTAINER", "VFIO_GROUP_UNSET_CONTAINER", "VFIO_GROUP_GET_DEVICE_FD",
        "VFIO_DEVICE_GET_INFO", "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA", "KVM_SET_DEVICE_ATTR",
    )
}  # fmt: skip


class Kernel:
    """The native library with the kernel's answers made up; ``diary`` has each call once it is answered."""

    def __init__(self) -> None:
        self.diary: list[tuple[Any, ...]] = []
        self.answers: dict[str, int] = {"VFIO_CHECK_EXTENSION": 1}
        self.viable = True
        self.contained: set[int] = set()  # groups in a container
        self.bus: list[int] = []  # groups of the functions that a bus reset would hit
        self.regions: dict[int, tuple[int, bytes]] = {}  # index: flags, capabilities from offset 32

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def vmrun_ioctl_value(self, fd: int, request: int, value: int) -> int:
        name = NAMES[request]
        self.diary.append((name, fd, value) if value else (name, fd))
        return self.answers.get(name, 0)

    def vmrun_ioctl(self, fd: int, request: int, argument: Any) -> int:
        name = NAMES[request]
        match name:
            case "VFIO_GROUP_GET_STATUS":
                argument.flags = lib.VFIO_GROUP_FLAGS_VIABLE if self.viable else 0
                self.diary.append((name, fd))
            case "VFIO_GROUP_SET_CONTAINER":
                self.diary.append((name, fd, argument[0]))
                self.contained.add(fd)
            case "VFIO_IOMMU_MAP_DMA":
                self.diary.append((name, argument.iova, argument.size, argument.vaddr, argument.flags))
            case "VFIO_IOMMU_UNMAP_DMA":
                self.diary.append((name, argument.iova, argument.size))
            case "KVM_SET_DEVICE_ATTR":
                add = argument.attr == lib.KVM_DEV_VFIO_GROUP_ADD
                group = ffi.cast("int32_t *", argument.addr)[0]
                self.diary.append(("GROUP_ADD" if add else "GROUP_DEL", fd, group))
                if add and group not in self.contained:
                    return -errno.EINVAL  # before 5.19: vfio_group_get_external_user
            case "VFIO_DEVICE_GET_INFO":
                argument.num_regions, argument.flags = 9, lib.VFIO_DEVICE_FLAGS_RESET
            case _:
                self.diary.append((name, fd))
        return self.answers.get(name, 0)

    def vmrun_vfio_affected(self, fd: int, groups: Any, room: int) -> int:
        for at, group in enumerate(self.bus):
            groups[at] = group
        return len(self.bus) if self.bus else -errno.ENODEV

    def vmrun_vfio_bus_reset(self, fd: int, groups: list[int], count: int) -> int:
        self.diary.append(("bus reset", groups))
        return 0

    def vmrun_vfio_region(self, fd: int, index: int, table: Any, room: int) -> int:
        if index not in self.regions:
            return -errno.EINVAL
        flags, capabilities = self.regions[index]
        info = ffi.cast("struct vfio_region_info *", table)
        info.size, info.offset, info.flags, info.cap_offset = 0x8000, index << 40, flags, 32
        ffi.buffer(table, room)[32 : 32 + len(capabilities)] = capabilities
        return 0

    def taken(self) -> list[tuple[Any, ...]]:
        said, self.diary[:] = list(self.diary), []
        return said


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(runner.host.vfio, "lib", made)
    return made


class Vm:
    def create_device(self, kind: int) -> int:
        assert kind == lib.KVM_DEV_TYPE_VFIO
        return os.dup(1)


class Memory:
    def __init__(self, *regions: RamRegion) -> None:
        self.regions = regions


class Machine:
    """RAM below and above the hole, and a file that is mapped as persistent memory."""

    def __init__(self) -> None:
        self.vm = Vm()
        low, high, file = (ffi.cast("void *", at << 40) for at in (1, 2, 3))
        self.ram = Memory(
            RamRegion(0, 3 << 30, low, 0, memoryview(b"")),
            RamRegion(4 << 30, 1 << 30, high, 3 << 30, memoryview(b"")),
            RamRegion(8 << 30, 1 << 30, file, 0, memoryview(b""), fd=9),
        )


def machine_container(kernel: Kernel) -> MachineContainer:
    machine: Any = Machine()
    made = MachineContainer(Container(CONTAINER), machine)
    made._kvm_groups.close()
    made._kvm_groups = KvmGroups(KVM_DEVICE)
    kernel.taken()
    return made


READ_WRITE = lib.VFIO_DMA_MAP_FLAG_READ | lib.VFIO_DMA_MAP_FLAG_WRITE
LOW = ("VFIO_IOMMU_MAP_DMA", 0, 3 << 30, 1 << 40, READ_WRITE)
HIGH = ("VFIO_IOMMU_MAP_DMA", 4 << 30, 1 << 30, 2 << 40, READ_WRITE)


def test_first_group_brings_type_and_memory(kernel: Kernel) -> None:
    """Viable, container, type 1 v2; then KVM hears of the group, which it may refuse without an IOMMU; then
    all RAM, below and above the hole, IOVA being the guest's address, and no file.
    """
    machine_container(kernel).add(FIRST, "IOMMU group 7")
    assert kernel.taken() == [
        ("VFIO_GROUP_GET_STATUS", FIRST),
        ("VFIO_GROUP_SET_CONTAINER", FIRST, CONTAINER),
        ("VFIO_CHECK_EXTENSION", CONTAINER, lib.VFIO_TYPE1v2_IOMMU),
        ("VFIO_SET_IOMMU", CONTAINER, lib.VFIO_TYPE1v2_IOMMU),
        ("GROUP_ADD", KVM_DEVICE, FIRST),
        LOW,
        HIGH,
    ]


def test_second_group_finds_both_there(kernel: Kernel) -> None:
    """Type and mappings are the container's, once."""
    container = machine_container(kernel)
    container.add(FIRST, "IOMMU group 7")
    kernel.taken()
    container.add(SECOND, "IOMMU group 8")
    assert [call[0] for call in kernel.taken()] == [
        "VFIO_GROUP_GET_STATUS",
        "VFIO_GROUP_SET_CONTAINER",
        "GROUP_ADD",
    ]


def test_end_is_in_order(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mapping is left when KVM forgets the groups, and no group in the container when that is closed."""
    container = machine_container(kernel)
    container.add(FIRST, "IOMMU group 7")
    container.add(SECOND, "IOMMU group 8")
    kernel.taken()
    monkeypatch.setattr(os, "close", lambda fd: kernel.diary.append(("close", fd)))
    container.close()
    assert kernel.taken() == [
        ("VFIO_IOMMU_UNMAP_DMA", 4 << 30, 1 << 30),
        ("VFIO_IOMMU_UNMAP_DMA", 0, 3 << 30),
        ("GROUP_DEL", KVM_DEVICE, FIRST),
        ("GROUP_DEL", KVM_DEVICE, SECOND),
        ("close", KVM_DEVICE),
        ("VFIO_GROUP_UNSET_CONTAINER", SECOND),
        ("VFIO_GROUP_UNSET_CONTAINER", FIRST),
    ]


def test_host_without_the_node_is_told_what_loads_both_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -a the second name would be an option of the first module."""

    def absent(path: str, flags: int) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "open", absent)
    claim = BackendClaim("vfio.container", "vfio_container")
    graph: Any = None
    with pytest.raises(HostError, match="/dev/vfio/vfio does not exist") as error:
        runner.backends.vfio_container.open_host(claim, graph)
    assert error.value.hint == "modprobe -a vfio_pci vfio_iommu_type1"


def test_group_with_a_foreign_member_is_refused(kernel: Kernel) -> None:
    """The kernel's own word, whatever we had found out: nothing is put into the container."""
    kernel.viable = False
    container = Container(CONTAINER)
    with pytest.raises(HostError, match="IOMMU group 7 is not viable") as error:
        container.add(FIRST, "IOMMU group 7")
    assert "vmrun host list" in error.value.hint
    assert kernel.taken()[-1] == ("VFIO_GROUP_GET_STATUS", FIRST)


def test_another_vfio_is_not_spoken_to(kernel: Kernel) -> None:
    kernel.answers["VFIO_GET_API_VERSION"] = 1
    with pytest.raises(HostError, match="VFIO speaks API version 1; vmrun knows 0"):
        Container(CONTAINER)


def test_host_without_type_1_is_told_what_to_load(kernel: Kernel) -> None:
    kernel.answers["VFIO_CHECK_EXTENSION"] = 0
    with pytest.raises(HostError, match="no type 1 IOMMU backend") as error:
        Container(CONTAINER).add(FIRST, "IOMMU group 7")
    assert error.value.hint == "modprobe vfio_iommu_type1"


@pytest.mark.parametrize(
    ("call", "number", "hint"),
    [
        ("VFIO_SET_IOMMU", errno.EPERM, "allow_unsafe_interrupts"),
        ("VFIO_IOMMU_MAP_DMA", errno.ENOMEM, "ulimit -l"),
        ("VFIO_IOMMU_MAP_DMA", errno.EINVAL, "less memory"),
        ("VFIO_IOMMU_MAP_DMA", errno.ENOSPC, "dma_entry_limit"),
        ("KVM_SET_DEVICE_ATTR", errno.ENOENT, ""),
    ],
)
def test_what_the_kernel_refuses_is_said_in_words(kernel: Kernel, call: str, number: int, hint: str) -> None:
    """The errno in words, with what it means in this place."""
    container = machine_container(kernel)
    kernel.answers[call] = -number
    with pytest.raises(HostError) as error:
        container.add(FIRST, "IOMMU group 7")
    assert os.strerror(number) in str(error.value)
    assert hint in error.value.hint


def test_machine_with_devices_may_have_many_descriptors(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soft limit of 1024 would end a guest that enables the vectors of a large network card."""
    limits: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 524288))
    monkeypatch.setattr(resource, "setrlimit", lambda *given: limits.append(given))
    machine: Any = Machine()
    resources: Any = SimpleNamespace(fds={"vfio.container": CONTAINER})
    made = runner.backends.vfio_container.attach(
        BackendClaim("vfio.container", "vfio_container"), resources, machine
    )
    made._kvm_groups.close()
    assert limits == [(resource.RLIMIT_NOFILE, (524288, 524288))]


# ---- regions

READ, WRITE = lib.VFIO_REGION_INFO_FLAG_READ, lib.VFIO_REGION_INFO_FLAG_WRITE
MMAP, CAPS = lib.VFIO_REGION_INFO_FLAG_MMAP, lib.VFIO_REGION_INFO_FLAG_CAPS
SPARSE, MSIX = lib.VFIO_REGION_INFO_CAP_SPARSE_MMAP, lib.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE


def sparse(following: int, *areas: tuple[int, int]) -> bytes:
    """A capability that lists areas; ``following`` is the offset of the next one."""
    head = struct.pack("<HHIII", SPARSE, 1, following, len(areas), 0)
    return head + b"".join(struct.pack("<QQ", *area) for area in areas)


def device_of(kernel: Kernel, *regions: tuple[int, bytes]) -> VfioDevice:
    kernel.regions = {**dict(enumerate(regions)), 7: (READ | WRITE, b"")}
    return VfioDevice(FIRST, "0000:01:00.0")


def test_regions_are_what_the_kernel_says(kernel: Kernel) -> None:
    """Mappable as a whole, in parts, or not at all; one that is not there has no size."""
    listed = sparse(0, (0, 0x2000), (0x3000, 0), (0x4000, 0x4000))
    both = sparse(32 + 32, (0x1000, 0x1000)) + struct.pack("<HHI", MSIX, 1, 0)
    device = device_of(
        kernel, (READ | WRITE | MMAP, b""), (READ | MMAP | CAPS, listed), (READ | WRITE | MMAP | CAPS, both),
        (READ | WRITE, b""),
    )  # fmt: skip
    whole, parts, msix, trapped, absent = device.regions[:5]
    assert whole.areas == ((0, 0x8000),)
    assert (parts.areas, parts.writable) == (((0, 0x2000), (0x4000, 0x4000)), False)
    assert (msix.areas, msix.msix_mappable) == (((0x1000, 0x1000),), True)
    assert (trapped.areas, trapped.size, trapped.offset) == ((), 0x8000, 3 << 40)
    assert (absent.areas, absent.size) == ((), 0)
    assert len(device.regions) == 8
    assert device.config.offset == 7 << 40


@pytest.mark.parametrize("following", [32, 16, 4090])
def test_chain_of_capabilities_ends(kernel: Kernel, following: int) -> None:
    """One that leads back, to itself or out of the room stops there."""
    device = device_of(kernel, (READ | MMAP | CAPS, sparse(following, (0, 0x1000))))
    assert device.regions[0].areas == ((0, 0x1000),)


# ---- resets

OURS = {7: FIRST, 8: SECOND, 9: 63}


def test_bus_is_reset_when_all_of_it_is_ours(kernel: Kernel) -> None:
    """With the groups on it, each once and no other, since VFIO refuses more."""
    device = device_of(kernel)
    kernel.bus = [7, 7, 8]
    assert device.resets(OURS)
    assert device.bus_reset(OURS)
    assert kernel.taken()[-1] == ("bus reset", [FIRST, SECOND])


@pytest.mark.parametrize("bus", [[7, 8, 12], []])
def test_bus_with_a_stranger_is_not_reset(kernel: Kernel, bus: list[int]) -> None:
    """A function of somebody else, or a bus that has no reset: VFIO is not even asked."""
    device = device_of(kernel)
    kernel.bus = bus
    assert not device.bus_reset(OURS)
    assert "bus reset" not in [call[0] for call in kernel.taken()]
    assert device.resets(OURS)  # by itself
    device.can_reset = False
    assert not device.resets(OURS)


class Named(NamedTuple):
    """A node of a graph as far as it is asked."""

    options: dict[str, bool]
    claim: Claim


@pytest.mark.parametrize("allowed", [True, False])
def test_function_that_cannot_be_reset_after_all(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """sysfs names methods, and the driver finds that none works: refused unless the definition opts in."""
    claim = BackendClaim("devices.reader", "vfio", {"address": "0000:01:00.0", "group": 7})
    machine: Any = Machine()
    machine.graph = SimpleNamespace(nodes=[Named({"allow_no_reset": allowed}, Claim(backends=(claim,)))])
    machine.backend = lambda _claim: FIRST
    resources: Any = SimpleNamespace(fds={"vfio.group7": FIRST, "vfio.container": CONTAINER})
    device = device_of(kernel)
    device.can_reset = False
    monkeypatch.setattr(runner.backends.vfio, "VfioDevice", lambda _group, _address: device)
    monkeypatch.setattr(runner.backends.vfio, "PassedHost", lambda *given: given)
    if allowed:
        assert runner.backends.vfio.attach(claim, resources, machine)[2] == {7: FIRST}
        return
    with pytest.raises(HostError, match=r"0000:01:00\.0 cannot be reset after all") as error:
        runner.backends.vfio.attach(claim, resources, machine)
    assert error.value.hint == "[devices.reader] allow_no_reset = true allows it"


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EPERM, "not viable"), (errno.EBUSY, "somebody else"), (errno.ENODEV, "vfio-pci")],
)
def test_function_that_cannot_be_opened(kernel: Kernel, number: int, hint: str) -> None:
    kernel.answers["VFIO_GROUP_GET_DEVICE_FD"] = -number
    with pytest.raises(HostError, match=r"opening 0000:01:00\.0 failed") as error:
        VfioDevice(FIRST, "0000:01:00.0")
    assert hint in error.value.hint
