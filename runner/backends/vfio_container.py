"""The VFIO container of a machine: one IOMMU address space with all of its RAM in it."""

from __future__ import annotations

import os

from runner.backends import Opened
from runner.errors import HostError, HostPermissionError
from runner.host.vfio import KVM_DEVICE, Container, KvmGroups
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.engine.kvm.machine import Machine
    from runner.engine.protocol import Resources
    from runner.graph.model import BackendClaim, Graph


def open_host(claim: BackendClaim, graph: Graph) -> Opened:
    """Open ``/dev/vfio/vfio``."""
    fd = open_vfio("/dev/vfio/vfio", "modprobe -a vfio_pci vfio_iommu_type1")
    return Opened({claim.name: fd}, {}, "VFIO container", lambda: os.close(fd))


def open_vfio(path: str, hint: str) -> int:
    """Open a VFIO file; each way it fails has its own mend."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(f"{path} does not exist", hint=hint) from None
    except PermissionError:
        raise HostPermissionError(
            f"{path} may not be opened by this user", hint=f"run as root, or chown $USER {path}"
        ) from None
    except OSError as error:
        words = "another VMM has it open" if error.errno == 16 else error.strerror
        raise HostError(f"{path} cannot be opened: {words}") from None


class MachineContainer:
    """The container with KVM's VFIO device beside it; memory is mapped with the first group."""

    def __init__(self, container: Container, machine: Machine) -> None:
        self._container, self._machine = container, machine
        self._kvm_groups = KvmGroups(machine.vm.create_device(KVM_DEVICE))
        self._groups: list[int] = []

    def add(self, group: int, name: str) -> None:
        """KVM hears of the group before its devices are opened (vfio.md, engine 1), and after it is in the
        container: before 5.19 KVM refuses a group without an IOMMU (virt/kvm/vfio.c), and until 6.1 it
        asks only then whether the group's DMA snoops the caches.
        """
        first = not self._groups
        self._container.add(group, name)
        self._kvm_groups.add(group)
        self._groups.append(group)
        if first:
            for region in self._machine.ram.regions:
                if region.fd < 0:  # the kernel pins no pages of a file (persistent memory)
                    self._container.map(region.start, region.size, region.host_address)

    def close(self) -> None:
        """Mappings, then KVM's knowledge of the groups, then the container (vfio.md, engine 11)."""
        self._container.unmap_all()
        for group in self._groups:
            self._kvm_groups.remove(group)
        self._kvm_groups.close()
        self._container.close()


def _make_room_for_eventfds() -> None:
    """A vector is a descriptor, a device may have 2048, and the usual soft limit is 1024; preflight has
    held them against the hard one.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def attach(claim: BackendClaim, resources: Resources, machine: Machine) -> MachineContainer:
    """One a machine."""
    _make_room_for_eventfds()
    return MachineContainer(Container(resources.fds[claim.name]), machine)
