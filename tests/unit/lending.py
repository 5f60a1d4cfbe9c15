"""Functions of a made-up host, lent to a machine: what the tests of the transaction begin with.

They take the fixtures over by ``tmp_path, core, host = in_memory, made_core, made_host``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.definition.model import DeviceEntry, Json
from runner.host.passthrough.host import Host
from runner.host.passthrough.transaction import Prepared, prepare
from runner.host.pci_facts import pci_facts
from runner.hostfacts import HostFacts
from tests.unit.driver_core import DriverCore

READER = "0000:01:00.0"
NVME = "0000:02:00.0"
ODD = "0000:03:00.0"
RAM = ((0, 512 << 20),)


def facts_of(core: DriverCore) -> HostFacts:
    return HostFacts(
        iommu=True,
        interrupt_remapping=True,
        modules=("vfio", "vfio_iommu_type1", "vfio_pci"),
        devices=("/dev/vfio/vfio",),
        pci=pci_facts(core),
    )


def entry(name: str, **options: Json) -> DeviceEntry:
    return DeviceEntry("devices", name, "vfio", options)


ENTRIES = (entry("reader", host=READER), entry("disk", host=NVME), entry("odd", host=ODD))


def make_core(root: Path) -> DriverCore:
    """A reader and a disk with drivers, and a third one without a driver but with an override."""
    core = DriverCore(root)
    core.ready_for_vfio()
    core.add_function(READER, natural="rtsx_pci", group=7)
    core.add_function(NVME, natural="nvme", group=8, vendor="0x1b36", device="0x0010")
    core.add_function(ODD, group=9, override="pci-stub", vendor="0x8086")
    return core


OVERRIDDEN = tuple(entry(f"odd{number}", host=f"0000:04:00.{number}") for number in range(4))


def make_overridden(root: Path) -> DriverCore:
    """Functions that their override would not bring to the driver that they are on."""
    core = DriverCore(root)
    core.ready_for_vfio()
    core.add_function("0000:04:00.0", natural="rtsx_pci", override="vfio-pci", group=7)
    core.add_function("0000:04:00.1", natural="rtsx_pci", override="pci-stub", group=8)
    core.add_function("0000:04:00.2", on="uio_pci_generic", group=9)  # the override was cleared since
    core.add_function("0000:04:00.3", natural="rtsx_pci", on="uio_pci_generic", override="nvme", group=10)
    return core


def host_of(core: DriverCore, tmp_path: Path) -> Host:
    return Host(core, str(tmp_path / "state"), group_user=lambda group: "", block_user=lambda node: "")


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory: journals are fsynced, and a disk would take its time for that."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def made_core(tmp_path: Path) -> DriverCore:
    return make_core(tmp_path / "host")


@pytest.fixture
def made_host(core: DriverCore, tmp_path: Path) -> Host:
    return host_of(core, tmp_path)


def lend(host: Host, core: DriverCore, entries: tuple[DeviceEntry, ...] = ENTRIES) -> Prepared:
    return prepare(entries, facts_of(core), RAM, vm="cardreader", host=host)


def journal_names(host: Host) -> list[str]:
    return [name for name in os.listdir(host.folder) if name != "lock"]


def run_in_child(body: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
