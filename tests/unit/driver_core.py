"""A made-up host: a tree of files like sysfs, whose writes have the effects of Linux's driver core.

The state is in the tree alone, so a process that is killed in the middle leaves it as a
kernel would, and another process finds it.  Semantics: drivers/base/dd.c, drivers/pci/pci-driver.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from runner.host.sysfs import HostSysfs

FLAGS = {"io": 0x40101, "mem32": 0x40200, "mem64": 0x140204}


class DriverCore(HostSysfs):
    """Reads like the host; a write binds, unbinds, probes and resets.

    ``before_write(number, path)`` is called before each write has its effect.
    """

    def __init__(self, root: Path, before_write: Callable[[int, str], None] | None = None) -> None:
        super().__init__(str(root))
        self.tree = Path(self.root)
        self.writes: list[tuple[str, str]] = []
        self._before_write = before_write

    # --- making the host

    def add_driver(self, name: str) -> None:
        (self.tree / "sys/bus/pci/drivers" / name).mkdir(parents=True, exist_ok=True)

    def add_function(
        self,
        address: str,
        *,
        natural: str = "",
        on: str = "",
        group: int | None = None,
        override: str = "",
        reset: str = "flr bus",
        below: str = "",
        bars: tuple[tuple[str, int], ...] = (),
        config: bytes = b"",
        bound: bool = True,
        **attributes: str,
    ) -> Path:
        """A function; ``below`` is the device path of the bridge above it, under pci0000:00.  ``on`` is a
        driver that does not know it, and was bound by an override.
        """
        device = self.tree / "sys/devices/pci0000:00" / below / address
        device.mkdir(parents=True)
        lines = [
            f"0x{0xC0000000:016x} 0x{0xC0000000 + size - 1:016x} 0x{FLAGS[kind]:016x}" for kind, size in bars
        ]
        lines += ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * (7 - len(lines))
        defaults = {
            "vendor": "0x10ec",
            "device": "0x525a",
            "class": "0xff0000",
            "revision": "0x01",
            "subsystem_vendor": "0x10ec",
            "subsystem_device": "0x0001",
            "resource": "\n".join(lines),
            "driver_override": override or "(null)",
            "natural_driver": natural,
            "reset_method": reset,
        }
        for name, text in {**defaults, **attributes}.items():
            (device / name).write_text(text + "\n")
        (device / "config").write_bytes(config)
        if reset:
            (device / "reset").write_text("")
        self._link(self.tree / "sys/bus/pci/devices" / address, device)
        if group is not None:
            folder = self.tree / "sys/kernel/iommu_groups" / str(group)
            folder.mkdir(parents=True, exist_ok=True)
            self._link(device / "iommu_group", folder)
        if natural:
            self.add_driver(natural)
        if on:
            self.add_driver(on)
        if on or (natural and bound):
            self._attach(address, on or natural)
        return device

    def put(self, path: str, text: str) -> None:
        """Any other file."""
        file = self.tree / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def link(self, path: str, target: str) -> None:
        self._link(self.tree / path.lstrip("/"), self.tree / target.lstrip("/"))

    def ready_for_vfio(self) -> None:
        """Modules, IOMMU and nodes as on a host where passthrough works."""
        self.add_driver("vfio-pci")
        for module in ("vfio", "vfio_pci", "vfio_iommu_type1"):
            self.put(f"/sys/module/{module}/refcnt", "0")
        self.put("/sys/class/iommu/dmar0/intel-iommu/cap", "d2008c40660462")
        self.put("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535")
        self.put("/dev/vfio/vfio", "")
        self.put("/proc/interrupts", " CPU0 CPU1\n  24:  0   0  IR-PCI-MSI 1  reader\n")
        self.put("/proc/sys/kernel/random/boot_id", "11111111-boot\n")

    # --- what tests look at

    def state(self) -> dict[str, tuple[str, str]]:
        """Address to (driver, override) now."""
        return {
            address: (self.driver(address), self._text(address, "driver_override").replace("(null)", ""))
            for address in self.listdir("/sys/bus/pci/devices")
        }

    def driver(self, address: str) -> str:
        link = self._device(address) / "driver"
        return os.readlink(link).rpartition("/")[2] if link.is_symlink() else ""

    # --- the kernel's side

    def write(self, path: str, text: str) -> None:
        if self._before_write:
            self._before_write(len(self.writes), path)
        self.writes.append((path, text))
        folder, _, name = path.rpartition("/")
        if not self.exists(path) and name not in ("drivers_probe", "bind", "unbind"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        word = text.strip()
        if name == "driver_override":
            (self._device(folder.rpartition("/")[2]) / name).write_text(f"{word or '(null)'}\n")
        elif name == "unbind":
            self._unbind(folder, word)
        elif name == "bind":
            self._bind(folder.rpartition("/")[2], word)
        elif name == "drivers_probe":
            self._probe(word)
        elif name != "reset":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    def _unbind(self, folder: str, address: str) -> None:
        if not self.exists(folder) or not self.driver(address):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), folder)
        (self._device(address) / "driver").unlink()
        self._nodes()

    def _probe(self, address: str) -> None:
        if self.driver(address):
            return
        wanted = self._matching(address)
        if wanted and self.exists(f"/sys/bus/pci/drivers/{wanted}"):
            self._attach(address, wanted)

    def _bind(self, driver: str, address: str) -> None:
        if self.driver(address) or self._matching(address) != driver:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), driver)
        self._attach(address, driver)

    def _matching(self, address: str) -> str:
        return self._text(address, "driver_override").replace("(null)", "") or self._text(
            address, "natural_driver"
        )

    def _attach(self, address: str, driver: str) -> None:
        self._link(self._device(address) / "driver", self.tree / "sys/bus/pci/drivers" / driver)
        self._nodes()

    def _nodes(self) -> None:
        """/dev/vfio/GROUP is there while a member of the group is on vfio-pci."""
        lent = {
            os.readlink(self._device(address) / "iommu_group").rpartition("/")[2]
            for address in self.listdir("/sys/bus/pci/devices")
            if self.driver(address) == "vfio-pci" and (self._device(address) / "iommu_group").is_symlink()
        }
        folder = self.tree / "dev/vfio"
        folder.mkdir(parents=True, exist_ok=True)
        for node in folder.iterdir():
            if node.name != "vfio" and node.name not in lent:
                node.unlink()
        for group in lent:
            (folder / group).touch()

    def _device(self, address: str) -> Path:
        return Path(os.path.realpath(self.tree / "sys/bus/pci/devices" / address))

    def _text(self, address: str, name: str) -> str:
        return (self._device(address) / name).read_text().strip()

    @staticmethod
    def _link(at: Path, target: Path) -> None:
        at.parent.mkdir(parents=True, exist_ok=True)
        if at.is_symlink():
            at.unlink()
        at.symlink_to(os.path.relpath(target, os.path.realpath(at.parent)))
