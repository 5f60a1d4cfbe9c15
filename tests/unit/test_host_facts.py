"""The survey on made-up hosts: what it reads of KVM, PCI, the IOMMU and what the host lives on."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.graph.encode import from_json, to_json
from runner.graph.x86 import CPU_FEATURES
from runner.host import kvm_facts as kvm
from runner.host.host_uses import host_uses
from runner.host.iommu_facts import iommu_facts
from runner.host.native._native import lib
from runner.host.pci_config import ConfigFacts, parse_config
from runner.host.pci_facts import pci_facts
from runner.host.pci_names import PciNames
from runner.host.survey import survey
from runner.hostfacts import BarFacts, HostFacts, QemuFacts, is_address
from tests.unit.driver_core import DriverCore

DISK = "0000:03:00.0"
PORT = "0000:00:1c.0"


@pytest.fixture
def core(tmp_path: Path) -> DriverCore:
    (tmp_path / "host").mkdir()
    return DriverCore(tmp_path / "host")


# --- KVM


def asked(core: DriverCore, *modules: str, version: int = 12) -> kvm.KvmFacts:
    for module in modules:
        core.put(f"/sys/module/{module}/refcnt", "0")
    core.put("/dev/kvm", "")

    def ioctl(fd: int, request: int, argument: int) -> int:
        if request == kvm.KVM_GET_API_VERSION:
            return version
        return 1024 if argument == kvm.CAPABILITIES["KVM_CAP_MAX_VCPUS"] else 1

    return kvm.kvm_facts(core, f"{core.root}/dev/kvm", ioctl)


@pytest.mark.parametrize("vendor", ["kvm_intel", "kvm_amd"])
def test_kvm_with_a_known_vendor_module_is_usable(core: DriverCore, vendor: str) -> None:
    """The two modules that use the hardware run stock kernels."""
    facts = asked(core, "kvm", vendor)
    assert (facts.usable, facts.vendor_module, facts.max_vcpus) == (True, vendor, 1024)


def test_kvm_pvm_is_present_and_not_usable(core: DriverCore) -> None:
    """It opens and answers version 12, and still cannot run a stock kernel."""
    facts = asked(core, "kvm", "kvm_pvm")
    assert (facts.present, facts.accessible, facts.api_version, facts.usable) == (True, True, 12, False)
    assert "kvm_pvm" in facts.why


def test_kvm_pvm_counts_before_a_built_in_module_that_did_not_start(core: DriverCore) -> None:
    """A built-in kvm_intel is listed in /sys/module on every CPU."""
    assert asked(core, "kvm", "kvm_intel", "kvm_pvm").usable is False


def test_an_unknown_vendor_module_is_not_usable(core: DriverCore) -> None:
    """Nobody has seen a stock kernel run under it."""
    facts = asked(core, "kvm", "kvm_new")
    assert (facts.usable, facts.vendor_module) == (False, "kvm_new")


def test_what_kvm_offers_of_a_cpu_is_asked_for_where_a_machine_may_have_it(core: DriverCore) -> None:
    """Registers that have features, at subleaf 0, out of a table that has others (struct kvm_cpuid2)."""
    rows = (
        (0, 0, 9, 9, 9),
        (1, 0, 7, 6, 5),
        (7, 0, 0x10, 0x20, 0x30),
        (7, 1, 8, 8, 8),
        (0x80000001, 0, 1, 2, 3),
    )

    def ioctl(fd: int, request: int, argument: Any) -> int:
        if request == kvm.KVM_GET_SUPPORTED_CPUID:
            assert struct.unpack_from("<I", argument)[0] == 256
            struct.pack_into("<I", argument, 0, len(rows))
            for number, (leaf, subleaf, ebx, ecx, edx) in enumerate(rows):
                struct.pack_into("<7I", argument, 8 + 40 * number, leaf, subleaf, 0, 0xEA, ebx, ecx, edx)
            return 0
        return 12 if request == kvm.KVM_GET_API_VERSION else 1

    core.put("/sys/module/kvm_intel/refcnt", "0")
    core.put("/dev/kvm", "")
    assert kvm.kvm_facts(core, f"{core.root}/dev/kvm", ioctl).cpuid == (
        ("1.ecx", 6),
        ("7.ebx", 0x10),
        ("7.ecx", 0x20),
        ("80000001.ecx", 2),
        ("80000001.edx", 3),
    )


def test_the_request_for_what_kvm_offers_is_the_headers() -> None:
    """The number that our own engine asks with comes from linux/kvm.h."""
    assert lib.KVM_GET_SUPPORTED_CPUID == kvm.KVM_GET_SUPPORTED_CPUID
    asked = {(leaf, name) for leaf, names in kvm.CPUID_REGISTERS.items() for name in names}
    assert {(leaf, name) for leaf, name, _ in CPU_FEATURES.values()} == asked


def test_another_api_version_is_not_usable(core: DriverCore) -> None:
    """Documentation/virt/kvm/api.rst 4.1: refuse anything but 12."""
    assert asked(core, "kvm_amd", version=13).usable is False


def test_absent_forbidden_and_broken_kvm_are_three_things(core: DriverCore) -> None:
    """No node; a node that this user may not open; a node that is no KVM."""
    absent = kvm.kvm_facts(core, f"{core.root}/dev/kvm")
    assert (absent.present, absent.why) == (False, f"there is no {core.root}/dev/kvm")
    core.put("/dev/kvm", "")
    broken = kvm.kvm_facts(core, f"{core.root}/dev/kvm")
    assert (broken.present, broken.accessible, broken.usable) == (True, True, False)
    assert "Inappropriate ioctl" in broken.why


def test_forbidden_kvm_is_told_apart(core: DriverCore, monkeypatch: pytest.MonkeyPatch) -> None:
    """EACCES is the user's matter, and not the host's."""
    core.put("/dev/kvm", "")

    def no(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(kvm.os, "open", no)
    facts = kvm.kvm_facts(core, "/dev/kvm")
    assert (facts.present, facts.accessible, facts.usable) == (True, False, False)
    assert "may not open" in facts.why


def test_capability_numbers_are_the_headers() -> None:
    """Every number equals the one in the installed linux/kvm.h."""
    header = Path("/usr/include/linux/kvm.h").read_text()
    for name, number in kvm.CAPABILITIES.items():
        found = re.search(rf"#define {name}\s+(\d+)", header)
        assert found, name
        assert int(found[1]) == number


# --- configuration space


def reader_of(config: bytes):  # type: ignore[no-untyped-def]
    return lambda offset, length: config[offset : offset + length]


def make_config() -> bytearray:
    """An endpoint with MSI (8 vectors), MSI-X (17), PCI Express, and a serial number."""
    config = bytearray(4096)
    config[0x06] = 0x10
    config[0x34] = 0x50
    config[0x3D] = 2
    config[0x50:0x54] = bytes((0x05, 0x60, 0x06, 0x00))
    config[0x60:0x64] = bytes((0x11, 0x70, 0x10, 0x80))
    config[0x70:0x74] = bytes((0x10, 0x00, 0x02, 0x00))
    config[0x100:0x104] = (0x0001 | 1 << 16 | 0x140 << 20).to_bytes(4, "little")
    config[0x140:0x144] = (0x0003 | 1 << 16).to_bytes(4, "little")
    config[0x144:0x14C] = bytes((1, 0, 0, 0xFF, 0xFF, 0, 0, 0xAB))
    return config


def test_capabilities_are_read() -> None:
    """INTB, 8 MSI and 17 MSI-X vectors, and the serial number as lspci writes it."""
    assert parse_config(reader_of(make_config())) == ConfigFacts(0, 2, 8, 17, "ab-00-00-ff-ff-00-00-01")


def test_an_ordinary_user_sees_the_header_only() -> None:
    """With 64 bytes the capabilities are not known, which is no error, and is said."""
    assert parse_config(reader_of(make_config()[:64])) == ConfigFacts(0, 2, whole=False)
    assert parse_config(reader_of(make_config())).whole
    without = bytearray(make_config()[:64])
    without[0x06] = 0
    assert parse_config(reader_of(bytes(without))).whole


def test_circular_lists_end() -> None:
    """Both lists point back at themselves."""
    config = make_config()
    config[0x71] = 0x50
    config[0x140:0x144] = (0x000B | 1 << 16 | 0x100 << 20).to_bytes(4, "little")
    assert parse_config(reader_of(config)) == ConfigFacts(0, 2, 8, 17, "")


@given(st.binary(min_size=64, max_size=4096), st.integers(0, 255), st.booleans())
def test_any_bytes_are_read_without_fault(config: bytes, pointer: int, listed: bool) -> None:
    """Hostile hardware: every walk ends and the counts stay in their ranges."""
    space = bytearray(config)
    space[0x06] = space[0x06] | 0x10 if listed else space[0x06]
    space[0x34] = pointer
    facts = parse_config(reader_of(space))
    assert 0 <= facts.intx_pin <= 4
    assert facts.msi_vectors in (0, 1, 2, 4, 8, 16, 32)
    assert 0 <= facts.msix_vectors <= 2048


def test_addresses_are_told_from_other_parts() -> None:
    """A domain has four digits or more (VMD), and a bus like pci0000:00 is no function."""
    assert is_address("0000:01:00.0")
    assert is_address("10000:e1:1f.7")
    for text in ("pci0000:00", "0000:01:00", "virtio2", "nvme0n1", "0000:01:00.0:x", "000g:01:00.0", ""):
        assert not is_address(text)


# --- PCI functions


def test_a_function_is_read_whole(core: DriverCore) -> None:
    """Ids, driver, group, resets, BARs, vectors, slot and the bridge above."""
    core.add_function(PORT, natural="pcieport", **{"class": "0x060400"})
    core.add_function(
        DISK,
        natural="nvme",
        group=12,
        below=PORT,
        vendor="0x1B36",
        bars=(("mem64", 0x4000), ("io", 0x20)),
        config=bytes(make_config()),
        boot_vga="0",
        sriov_numvfs="2",
        **{"class": "0x010802"},
    )
    core.put("/sys/bus/pci/slots/5-1/address", "0000:03:00\n")
    core.put("/sys/kernel/iommu_groups/12/reserved_regions", "0x00000000fee00000 0x00000000feefffff msi\n")
    port, disk = pci_facts(core)
    assert port.is_bridge
    assert (disk.address, disk.vendor, disk.class_code) == (DISK, "1b36", "010802")
    assert (disk.driver, disk.driver_override, disk.iommu_group) == ("nvme", "", 12)
    assert disk.reset_methods == ("flr", "bus")
    assert disk.bars == (BarFacts(0, "mem64", 0x4000), BarFacts(1, "io", 0x20))
    assert (disk.intx_pin, disk.msi_vectors, disk.msix_vectors) == (2, 8, 17)
    assert (disk.serial, disk.slot, disk.parent) == ("ab-00-00-ff-ff-00-00-01", "5-1", PORT)
    assert (disk.vfs, disk.boot_vga, disk.is_bridge) == (2, False, False)
    assert disk.reserved == ((0xFEE00000, 0xFEEFFFFF, "msi"),)


def test_an_older_kernel_has_a_reset_without_a_name(core: DriverCore) -> None:
    """Before Linux 5.15 only the switch ``reset`` is there, or is not."""
    device = core.add_function(DISK)
    (device / "reset_method").unlink()
    assert pci_facts(core)[0].reset_methods == ("unnamed",)
    (device / "reset").unlink()
    assert pci_facts(core)[0].reset_methods == ()


# --- what the host lives on


def uses_of(core: DriverCore, address: str = DISK) -> tuple[str, ...]:
    return host_uses(core).get(address, ())


def add_disk(core: DriverCore, name: str = "sda", number: str = "8:0", address: str = DISK) -> str:
    """A disk with one partition below a function; returns the disk's device path."""
    if not core.exists(f"/sys/bus/pci/devices/{address}"):
        core.add_function(address)
    path = f"/sys/devices/pci0000:00/{address}/ata1/block/{name}"
    for at, dev in ((path, number), (f"{path}/{name}1", number[:-1] + "1")):
        core.put(f"{at}/dev", dev)
        core.link(f"/sys/dev/block/{dev}", at)
        core.link(f"/sys/class/block/{at.rpartition('/')[2]}", at)
        core.put(f"/dev/{at.rpartition('/')[2]}", "")
    core.put(f"{path}/{name}1/partition", "1")
    core.link(f"/sys/block/{name}", path)
    return path


def add_stack(
    core: DriverCore, name: str, below: str, *, label: str = "", uuid: str = "", number: str = "254:0"
) -> str:
    """A virtual block device on top of another one."""
    path = f"/sys/devices/virtual/block/{name}"
    core.put(f"{path}/dev", number)
    core.link(f"{path}/slaves/{below.rpartition('/')[2]}", below)
    if label:
        core.put(f"{path}/dm/name", label)
        core.put(f"{path}/dm/uuid", uuid)
    for link in (f"/sys/dev/block/{number}", f"/sys/class/block/{name}", f"/sys/block/{name}"):
        core.link(link, path)
    return path


def mount(core: DriverCore, *lines: str) -> None:
    core.put("/proc/self/mountinfo", "\n".join(lines) + "\n")


def test_a_mounted_partition_names_its_controller_and_every_bridge(core: DriverCore) -> None:
    """The use is told of the function and of the port above it."""
    core.add_function(PORT)
    core.add_function(DISK, below=PORT)
    path = f"/sys/devices/pci0000:00/{PORT}/{DISK}/nvme/nvme0/nvme0n1"
    core.put(f"{path}/dev", "259:0")
    core.link("/sys/dev/block/259:0", path)
    mount(core, "22 1 259:0 / / rw - ext4 /dev/root rw")
    assert uses_of(core) == uses_of(core, PORT) == ("mount /",)


def test_a_stack_is_followed_down(core: DriverCore) -> None:
    """Root on LVM on LUKS on a partition: the mount, and both layers, are uses of the controller."""
    disk = add_disk(core)
    luks = add_stack(core, "dm-0", f"{disk}/sda1", label="cryptroot", uuid="CRYPT-LUKS2-12ab-cryptroot")
    add_stack(core, "dm-1", luks, label="vg-root", uuid="LVM-xyz", number="254:1")
    mount(core, "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw")
    assert uses_of(core) == ("mount /", "LUKS cryptroot", "volume vg-root")


def test_raid_is_followed_to_every_member(core: DriverCore) -> None:
    """A partition on md is on the disks of the md."""
    first = add_disk(core)
    second = add_disk(core, "sdb", "8:16", "0000:04:00.0")
    raid = add_stack(core, "md0", first, number="9:0")
    core.link(f"{raid}/slaves/sdb", second)
    core.put(f"{raid}/md0p1/partition", "1")
    core.link("/sys/dev/block/259:9", f"{raid}/md0p1")
    mount(core, "22 1 259:9 / /srv rw - xfs /dev/md0p1 rw")
    assert uses_of(core) == uses_of(core, "0000:04:00.0") == ("mount /srv", "volume md0")


def test_a_circular_stack_ends(core: DriverCore) -> None:
    """sysfs should not have one; a walk that believed it would never end."""
    first = add_stack(core, "dm-0", "/sys/devices/virtual/block/dm-1", label="a")
    add_stack(core, "dm-1", first, label="b", number="254:1")
    assert host_uses(core) == {}


def test_an_unlocked_but_unmounted_volume_is_a_use(core: DriverCore) -> None:
    """Somebody has opened it, and may be about to mount it."""
    add_stack(core, "dm-0", add_disk(core), label="backup", uuid="CRYPT-LUKS2-1-backup")
    assert uses_of(core) == ("LUKS backup",)


def test_swap_partitions_are_uses(core: DriverCore) -> None:
    """A swap file is covered by the mount it lies on."""
    add_disk(core)
    core.put("/proc/swaps", "Filename Type Size\n/dev/sda1 partition 8 0 -2\n/swap file 8 0 -3\n")
    assert uses_of(core) == ("swap",)


def test_btrfs_tells_of_every_member(core: DriverCore) -> None:
    """A mount names one device of several; the others are in /sys/fs/btrfs."""
    add_disk(core)
    add_disk(core, "sdb", "8:16", "0000:04:00.0")
    for name in ("sda1", "sdb1"):
        core.link(f"/sys/fs/btrfs/1234/devices/{name}", f"/sys/class/block/{name}")
    mount(core, "22 1 0:33 /@ / rw - btrfs /dev/sda1 rw,subvol=/@")
    assert uses_of(core) == ("mount /", "btrfs 1234")
    assert uses_of(core, "0000:04:00.0") == ("btrfs 1234",)


def test_nvme_multipath_hangs_below_no_controller(core: DriverCore) -> None:
    """The namespace's path is virtual, and the subsystem links to the controllers."""
    core.add_function(DISK)
    subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    controller = f"/sys/devices/pci0000:00/{DISK}/nvme/nvme0"
    core.put(f"{controller}/state", "live")
    core.link(f"{subsystem}/nvme0", controller)
    core.put(f"{subsystem}/nvme0n1/dev", "259:1")
    core.link("/sys/dev/block/259:1", f"{subsystem}/nvme0n1")
    mount(core, "22 1 259:1 / /data rw - ext4 /dev/nvme0n1 rw")
    assert uses_of(core) == ("mount /data",)


def test_a_host_folder_over_virtio_is_a_use_of_its_device(core: DriverCore) -> None:
    """Only the 9p device whose tag is mounted; nothing tells virtiofs devices apart, so each."""
    for number, tag in ((0, "root"), (1, "other")):
        core.add_function(f"0000:00:0{number + 2}.0")
        path = f"/sys/devices/pci0000:00/0000:00:0{number + 2}.0/virtio{number}"
        core.put(f"{path}/mount_tag", f"{tag}\0")
        core.link(f"/sys/bus/virtio/drivers/9pnet_virtio/virtio{number}", path)
    mount(core, "22 1 0:20 / / rw - 9p root rw,trans=virtio")
    assert uses_of(core, "0000:00:02.0") == ("mount /",)
    assert uses_of(core, "0000:00:03.0") == ()


def test_the_first_process_sees_mounts_that_a_chroot_hides(core: DriverCore) -> None:
    """A mount that both see is told once, as we see it."""
    add_disk(core)
    mount(core, "30 1 8:0 / / rw - ext4 /dev/sda rw")
    core.put(
        "/proc/1/mountinfo",
        "30 1 8:0 / /root rw - ext4 /dev/sda rw\n31 1 8:1 / /boot rw - ext4 /dev/sda1 rw\n",
    )
    assert uses_of(core) == ("mount /", "mount /boot")


def test_the_default_route_is_followed_through_a_bridge_and_a_bond(core: DriverCore) -> None:
    """br0 over bond0 over eth0, for IPv4 or IPv6."""
    core.add_function(DISK)
    core.put(f"/sys/devices/pci0000:00/{DISK}/net/eth0/mtu", "1500")
    core.link("/sys/class/net/eth0", f"/sys/devices/pci0000:00/{DISK}/net/eth0")
    for upper, lower in (("br0", "bond0"), ("bond0", "eth0")):
        core.put(f"/sys/devices/virtual/net/{upper}/mtu", "1500")
        core.link(f"/sys/class/net/{upper}", f"/sys/devices/virtual/net/{upper}")
        core.link(f"/sys/devices/virtual/net/{upper}/lower_{lower}", f"/sys/class/net/{lower}")
    core.put("/proc/net/route", "Iface Destination\nbr0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n")
    assert uses_of(core) == ("default route (br0)",)
    core.put("/proc/net/route", "Iface Destination\nbr0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n")
    assert uses_of(core) == ()
    zeros = "0" * 32
    core.put("/proc/net/ipv6_route", f"{zeros} 00 {zeros} 00 fe80{zeros[4:]} 400 1 0 3 br0\n")
    assert uses_of(core) == ("default route (br0)",)


def test_the_console_is_a_use(core: DriverCore) -> None:
    """A serial card that the kernel writes to stays with the host."""
    core.add_function(DISK)
    core.put(f"/sys/devices/pci0000:00/{DISK}/tty/ttyS4/dev", "4:68")
    core.link("/sys/class/tty/ttyS4", f"/sys/devices/pci0000:00/{DISK}/tty/ttyS4")
    core.put("/sys/class/tty/console/active", "tty0 ttyS4\n")
    assert uses_of(core) == ("console ttyS4",)


# --- the IOMMU


def test_an_intel_iommu(core: DriverCore) -> None:
    """On, remapping, 39 bits (MGAW), with the type 1 backend's parameters."""
    core.ready_for_vfio()
    core.add_function(DISK, group=3)
    core.put("/sys/class/iommu/dmar1/intel-iommu/cap", "d2008c22260206")
    core.put("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n")
    facts = iommu_facts(core)
    assert (facts.on, facts.interrupt_remapping, facts.iova_bits) == (True, True, 39)
    assert (facts.unsafe_interrupts, facts.dma_entry_limit) == (True, 65535)


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        ("25bf732fa2295afe", 64),
        ("0:246577efa2254afa", 64),
        ("0:29d3", 64),
        ("f77ef22294000", 48),
        ("f77ef22294400", 57),
    ],
)
def test_an_amd_iommu(core: DriverCore, features: str, bits: int) -> None:
    """The width is that of its page tables' levels (HATS, bits 11:10 of the extended features), which newer
    kernels print after a second register; the interrupt chips are named as Intel's.
    """
    core.put("/sys/class/iommu/ivhd0/amd-iommu/features", f"{features}\n")
    core.put("/sys/kernel/iommu_groups/7/type", "DMA-FQ\n")
    core.put("/proc/interrupts", " CPU0 CPU1\n  24:  0   0  IR-PCI-MSI-0000:01:00.0  0-edge  xhci_hcd\n")
    facts = iommu_facts(core)
    assert (facts.on, facts.interrupt_remapping, facts.iova_bits) == (True, True, bits)


def test_an_amd_iommu_that_is_off(core: DriverCore) -> None:
    """amd_iommu=off: the driver has made no unit and no group."""
    core.put("/proc/interrupts", " CPU0 CPU1\n  24:  0   0  PCI-MSI 0-edge  xhci_hcd\n")
    facts = iommu_facts(core)
    assert (facts.on, facts.interrupt_remapping, facts.iova_bits) == (False, False, 0)


def test_groups_of_the_no_iommu_mode_are_no_iommu(core: DriverCore) -> None:
    """VFIO's no-IOMMU mode makes groups, but there is no unit."""
    core.add_function(DISK, group=0)
    assert iommu_facts(core).on is False


def test_remapping_is_what_the_interrupt_chips_say(core: DriverCore) -> None:
    """A capable unit whose remapping is switched off shows plain chips."""
    core.ready_for_vfio()
    core.put("/proc/interrupts", "  CPU0 CPU1\n  24:  0   0  PCI-MSI 1-edge  IR-remote\n")
    assert iommu_facts(core).interrupt_remapping is False


def test_an_acs_override_is_seen(core: DriverCore) -> None:
    """It is on the kernel's command line."""
    core.put("/proc/cmdline", "root=/dev/sda1 pcie_acs_override=downstream quiet\n")
    assert iommu_facts(core).acs_override is True


# --- the whole


def test_a_made_up_host_is_surveyed(core: DriverCore, tmp_path: Path) -> None:
    """Everything comes from below the root that is given, and survives JSON."""
    core.ready_for_vfio()
    core.add_function(DISK, group=3)
    core.put("/dev/kvm", "")
    core.put("/proc/meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n")
    core.put("/proc/cpuinfo", "vendor_id\t: GenuineIntel\naddress sizes\t: 39 bits physical\n")
    core.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    for name, value in (("nr_hugepages", "8"), ("free_hugepages", "5")):
        core.put(f"/sys/kernel/mm/hugepages/hugepages-2048kB/{name}", value)
    facts = survey(core.root)
    assert (facts.memory_total, facts.memory_available) == (16 << 20, 8 << 20)
    assert (facts.cpu_vendor, facts.physical_bits, facts.thp) == ("intel", 39, "madvise")
    assert facts.hugepages == ((2 << 20, 8, 5),)
    assert facts.modules == ("vfio", "vfio_iommu_type1", "vfio_pci")
    assert "/dev/vfio/vfio" in facts.devices
    assert [one.address for one in facts.pci] == [DISK]
    assert facts.kvm.present
    assert not facts.kvm.usable
    assert from_json(HostFacts, to_json(facts)) == facts


def test_without_pci_nothing_of_pci_is_read(core: DriverCore) -> None:
    """The run path of a machine without passthrough pays for none of it."""
    core.ready_for_vfio()
    core.add_function(DISK, group=3)
    facts = survey(core.root, pci=False)
    assert (facts.pci, facts.iommu) == ((), False)


def test_qemu_is_asked_for_its_version_only_where_it_runs(
    core: DriverCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With usable KVM no program is started; without, or when the doctor asks, QEMU tells it."""
    core.put("/usr/bin/qemu-system-x86_64", "#!/bin/sh\necho 'QEMU emulator version 9.9.1 (made up)'\n")
    os.chmod(f"{core.root}/usr/bin/qemu-system-x86_64", 0o755)
    core.put("/sys/module/kvm_intel/refcnt", "1")
    core.put("/dev/kvm", "")
    monkeypatch.setenv("PATH", "/usr/bin")
    usable = survey(core.root, pci=False, ioctl=lambda fd, request, argument: 12)
    assert usable.kvm.usable
    assert usable.qemu == QemuFacts("/usr/bin/qemu-system-x86_64", "")
    assert survey(core.root, pci=False).qemu.version == "9.9.1"


def test_the_run_path_imports_nothing_heavy() -> None:
    """survey(pci=False) brings in neither PCI nor JSON nor subprocess; start-up time is a feature."""
    code = (
        "import sys; from runner.host.survey import survey; survey(pci=False, qemu_version=False); "
        "heavy = 'runner.host.pci_facts runner.host.iommu_facts json subprocess dataclasses pathlib'; "
        "print(*sorted(set(heavy.split()) & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert out.stdout.strip() == ""


# --- names

IDS = """# comment
10ec  Realtek Semiconductor Co., Ltd.
\t525a  RTS525A PCI Express Card Reader
\t\t10ec 0001  A subsystem
# a comment inside
\t5261  RTS5261 PCI Express Card Reader
10ed  Ascii Corporation
\t7310  V7310
C 01  Mass storage controller
\t08  Non-Volatile memory controller
\t\t02  NVM Express
C 02  Network controller
"""


def test_names_come_from_the_file() -> None:
    """Vendor, device and class; a device is looked for in its own vendor's section only."""
    names = PciNames(IDS)
    assert names.device("10ec", "525a") == "RTS525A PCI Express Card Reader"
    assert names.device("10ec", "5261") == "RTS5261 PCI Express Card Reader"
    assert names.device("10ec", "7310") == ""
    assert names.device("10ec", "0001") == ""
    assert names.vendor("10ed") == "Ascii Corporation"
    assert names.kind("010802") == "Non-Volatile memory controller"
    assert names.kind("019900") == "Mass storage controller"


def test_without_the_file_classes_still_have_names() -> None:
    """And ids stand for the rest."""
    from runner.hostfacts import PciFacts

    names = PciNames("")
    assert names.kind("020000") == "Network controller"
    assert names.of(PciFacts(DISK, "10ec", "525a")) == "Vendor 10ec device 525a"
