"""``/dev/kvm`` as typed objects: one system, one VM, its vCPUs (Documentation/virt/kvm/api.rst).

Every failed call becomes a HostError that names the call and tells the errno in words.
"""

from __future__ import annotations

import os

from runner.errors import HostError, HostPermissionError
from runner.host.kvm_device import open_kvm
from runner.host.native._native import ffi, lib
from runner.typed import Any, Iterable, NamedTuple, Sequence

PIC_PINS = 8
IOAPIC_PINS = 24

# What :meth:`Vcpu.run` comes back with (host/native/vcpu.c), and details of it (linux/kvm.h).
PIO, MMIO, KICKED, HLT = lib.VMRUN_PIO, lib.VMRUN_MMIO, lib.VMRUN_KICKED, lib.VMRUN_HLT
SHUTDOWN, FAIL_ENTRY = lib.VMRUN_SHUTDOWN, lib.VMRUN_FAIL_ENTRY
INTERNAL_ERROR, SYSTEM_EVENT = lib.VMRUN_INTERNAL_ERROR, lib.VMRUN_SYSTEM_EVENT
ERRNO = lib.VMRUN_ERRNO
SYSTEM_SHUTDOWN, SYSTEM_RESET = lib.KVM_SYSTEM_EVENT_SHUTDOWN, lib.KVM_SYSTEM_EVENT_RESET
EMULATION = lib.KVM_INTERNAL_ERROR_EMULATION

# Capabilities that the machine asks for by number.
CAP_TSC_DEADLINE_TIMER = lib.KVM_CAP_TSC_DEADLINE_TIMER
CAP_COALESCED_PIO, CAP_COALESCED_MMIO = lib.KVM_CAP_COALESCED_PIO, lib.KVM_CAP_COALESCED_MMIO

BRAND_LEAVES = (0x80000002, 0x80000003, 0x80000004)  # SDM volume 2A, CPUID: "processor brand string"


class CpuidEntry(NamedTuple):
    """One CPUID leaf; ``flags`` bit 0: ``subleaf`` is significant."""

    leaf: int
    subleaf: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def cpu_brand() -> tuple[tuple[int, int, int, int], ...]:
    """This CPU's name as its leaves 0x80000002 to 4 have it, four registers each."""
    registers = ffi.new("uint32_t[4]")
    found = []
    for leaf in BRAND_LEAVES:
        lib.vmrun_cpuid(leaf, registers)
        found.append((registers[0], registers[1], registers[2], registers[3]))
    return tuple(found)


class MsiRoute(NamedTuple):
    """A GSI that sends this message (address and data as the guest wrote them)."""

    gsi: int
    address: int
    data: int


class Counters(NamedTuple):
    """Exits of one vCPU by kind; ``quiet`` ones never left C."""

    exits: int
    pio: int
    mmio: int
    quiet: int
    other: int


def _failed(what: str, number: int, hint: str = "") -> HostError:
    kind = HostPermissionError if number in (1, 13) else HostError
    return kind(f"KVM: {what} failed: {os.strerror(number)} (errno {number})", hint=hint)


def _call(fd: int, request: int, argument: Any, what: str) -> int:
    result: int = lib.vmrun_ioctl(fd, request, argument)
    if result < 0:
        raise _failed(what, -result)
    return result


def _call_value(fd: int, request: int, argument: int, what: str) -> int:
    result: int = lib.vmrun_ioctl_value(fd, request, argument)
    if result < 0:
        raise _failed(what, -result)
    return result


class Kvm:
    """The system handle."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = open_kvm() if fd is None else fd
        version = _call_value(self.fd, lib.KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION")
        if version != 12:
            raise HostError(f"/dev/kvm speaks API version {version}; vmrun knows 12, the only stable one")
        self.run_size = _call_value(self.fd, lib.KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")

    def check(self, capability: int) -> int:
        """KVM_CHECK_EXTENSION: 0 when the host's KVM has it not."""
        return _call_value(self.fd, lib.KVM_CHECK_EXTENSION, capability, "KVM_CHECK_EXTENSION")

    def create_vm(self) -> Vm:
        return Vm(self, _call_value(self.fd, lib.KVM_CREATE_VM, 0, "KVM_CREATE_VM"))

    def supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID; the table grows until the kernel's fits."""
        room = 128
        while True:
            table = ffi.new("struct kvm_cpuid2 *", {"entries": room})
            table.nent = room
            result = lib.vmrun_ioctl(self.fd, lib.KVM_GET_SUPPORTED_CPUID, table)
            if result == -7 and room < 4096:  # E2BIG
                room *= 2
                continue
            if result < 0:
                raise _failed("KVM_GET_SUPPORTED_CPUID", -result)
            return [
                CpuidEntry(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx)
                for e in table.entries[0 : table.nent]
            ]

    def close(self) -> None:
        os.close(self.fd)


class Vm:
    """One virtual machine of the kernel's."""

    def __init__(self, kvm: Kvm, fd: int) -> None:
        self.kvm = kvm
        self.fd = fd

    def set_memory(self, slot: int, address: int, size: int, host_address: int, flags: int = 0) -> None:
        """Map host memory at a guest-physical address; size 0 deletes the slot."""
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot, region.flags = slot, flags
        region.guest_phys_addr, region.memory_size = address, size
        region.userspace_addr = host_address
        _call(self.fd, lib.KVM_SET_USER_MEMORY_REGION, region, f"mapping memory slot {slot} at {address:#x}")

    def create_irqchip(self, tss_address: int, identity_map: int) -> None:
        """PIC, IOAPIC and LAPICs in the kernel; Intel needs four hidden pages for real mode."""
        address = ffi.new("uint64_t *", identity_map)
        _call(self.fd, lib.KVM_SET_IDENTITY_MAP_ADDR, address, "KVM_SET_IDENTITY_MAP_ADDR")
        _call_value(self.fd, lib.KVM_SET_TSS_ADDR, tss_address, "KVM_SET_TSS_ADDR")
        _call_value(self.fd, lib.KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")

    def create_pit(self) -> None:
        """The 8254 in the kernel, with port 0x61 answered there too."""
        config = ffi.new("struct kvm_pit_config *")
        config.flags = lib.KVM_PIT_SPEAKER_DUMMY
        _call(self.fd, lib.KVM_CREATE_PIT2, config, "KVM_CREATE_PIT2")

    def enable(self, capability: int, *values: int) -> None:
        """KVM_ENABLE_CAP on the VM."""
        request = ffi.new("struct kvm_enable_cap *")
        request.cap = capability
        for number, value in enumerate(values):
            request.args[number] = value
        _call(self.fd, lib.KVM_ENABLE_CAP, request, f"enabling capability {capability}")

    def use_wide_apic_ids(self) -> None:
        """x2APIC ids of 32 bits in messages and in the LAPIC's state (api.rst, 7.7)."""
        flags = lib.KVM_X2APIC_API_USE_32BIT_IDS | lib.KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK
        self.enable(lib.KVM_CAP_X2APIC_API, flags)

    def irq_line(self, gsi: int, level: bool) -> None:
        line = ffi.new("struct kvm_irq_level *")
        line.irq, line.level = gsi, int(level)
        _call(self.fd, lib.KVM_IRQ_LINE, line, "KVM_IRQ_LINE")

    def irqfd(self, fd: int, gsi: int, *, resample: int | None = None, remove: bool = False) -> None:
        """Each signal of eventfd ``fd`` raises ``gsi``; ``resample`` is signalled at its EOI."""
        request = ffi.new("struct kvm_irqfd *")
        request.fd, request.gsi = fd, gsi
        if remove:
            request.flags = lib.KVM_IRQFD_FLAG_DEASSIGN
        elif resample is not None:
            request.flags, request.resamplefd = lib.KVM_IRQFD_FLAG_RESAMPLE, resample
        _call(self.fd, lib.KVM_IRQFD, request, f"KVM_IRQFD for interrupt {gsi}")

    def ioeventfd(
        self,
        fd: int,
        address: int,
        size: int,
        *,
        value: int | None = None,
        pio: bool = False,
        remove: bool = False,
    ) -> None:
        """A guest write at ``address`` signals ``fd`` and nobody leaves guest mode for long."""
        request = ffi.new("struct kvm_ioeventfd *")
        request.fd, request.addr, request.len = fd, address, size
        if value is not None:
            request.datamatch = value
            request.flags |= lib.KVM_IOEVENTFD_FLAG_DATAMATCH
        if pio:
            request.flags |= lib.KVM_IOEVENTFD_FLAG_PIO
        if remove:
            request.flags |= lib.KVM_IOEVENTFD_FLAG_DEASSIGN
        _call(self.fd, lib.KVM_IOEVENTFD, request, f"KVM_IOEVENTFD at {address:#x}")

    def set_routes(self, messages: Iterable[MsiRoute] = ()) -> None:
        """The whole GSI table: a PC's PICs and IOAPIC, then messages.

        GSI 0, the timer, goes to IOAPIC pin 2 as the MADT's override says (ACPI 6.4
        §5.2.12.5); pin 2's own GSI would be the cascade and has no route.
        """
        rows = [*_pc_routes()]
        msi = lib.KVM_IRQ_ROUTING_MSI
        rows += [(m.gsi, msi, m.address & 0xFFFFFFFF, m.address >> 32, m.data) for m in messages]
        table = ffi.new("struct vmrun_route[]", rows)
        result = lib.vmrun_set_routes(self.fd, table, len(rows))
        if result < 0:
            raise _failed(f"KVM_SET_GSI_ROUTING with {len(rows)} routes", -result)

    def create_device(self, kind: int) -> int:
        """KVM_CREATE_DEVICE; returns its descriptor."""
        request = ffi.new("struct kvm_create_device *")
        request.type = kind
        _call(self.fd, lib.KVM_CREATE_DEVICE, request, f"KVM_CREATE_DEVICE type {kind}")
        return int(request.fd)

    def create_vcpu(self, apic_id: int, claimed_ports: Any) -> Vcpu:
        fd = _call_value(self.fd, lib.KVM_CREATE_VCPU, apic_id, f"KVM_CREATE_VCPU {apic_id}")
        return Vcpu(self, apic_id, fd, claimed_ports)


def _pc_routes() -> list[tuple[int, int, int, int, int]]:
    kind = lib.KVM_IRQ_ROUTING_IRQCHIP
    pic = [
        (
            gsi,
            kind,
            lib.KVM_IRQCHIP_PIC_MASTER if gsi < PIC_PINS else lib.KVM_IRQCHIP_PIC_SLAVE,
            gsi % PIC_PINS,
            0,
        )
        for gsi in range(2 * PIC_PINS)
        if gsi != 2
    ]
    ioapic = [
        (gsi, kind, lib.KVM_IRQCHIP_IOAPIC, 2 if gsi == 0 else gsi, 0)
        for gsi in range(IOAPIC_PINS)
        if gsi != 2
    ]
    return pic + ioapic


def install_kick_signal() -> None:
    """Let :meth:`Vcpu.kick` interrupt KVM_RUN; once a process."""
    lib.vmrun_install_kick_signal()


def claimed_port_map() -> Any:
    """65,536 bits, one a port: those that are set come to Python, the others C answers."""
    return ffi.new("uint8_t[]", 8192)


class Vcpu:
    """One virtual CPU; every call but :meth:`kick` belongs to the thread that runs it."""

    def __init__(self, vm: Vm, apic_id: int, fd: int, claimed_ports: Any) -> None:
        self.vm = vm
        self.apic_id = apic_id
        self.fd = fd
        self._kept = [claimed_ports]  # C keeps the pointers, so Python keeps the objects
        self.state: Any = ffi.new("struct vmrun_vcpu *")
        result = lib.vmrun_vcpu_open(self.state, fd, vm.kvm.run_size, claimed_ports)
        if result < 0:
            raise _failed("mapping kvm_run", -result)

    def run(self) -> int:
        """Run the guest until something needs a decision; returns a ``VMRUN_…`` number."""
        stop: int = lib.vmrun_vcpu_run(self.state)
        return stop

    def coalesced_ring(self, page: int) -> Any:
        """The VM's ring of coalesced writes, in this one's mapping."""
        return lib.vmrun_coalesced_ring(self.state, page)

    def serve_uart(self, uart: Any) -> None:
        """Let native code serve a ``struct vmrun_uart`` from now on."""
        self._kept.append(uart)
        self.state.uart = uart

    def kick(self) -> None:
        """Make :meth:`run` return VMRUN_KICKED soon; from any thread."""
        lib.vmrun_vcpu_kick(self.state)

    def counters(self) -> Counters:
        c = self.state.counters
        return Counters(c.exits, c.pio, c.mmio, c.quiet, c.other)

    def set_cpuid(self, entries: Sequence[CpuidEntry]) -> None:
        table = ffi.new("struct kvm_cpuid2 *", {"entries": len(entries)})
        table.nent = len(entries)
        for row, entry in zip(table.entries[0 : len(entries)], entries, strict=True):
            row.function, row.index, row.flags, row.eax, row.ebx, row.ecx, row.edx = entry
        _call(self.fd, lib.KVM_SET_CPUID2, table, "KVM_SET_CPUID2")

    def get_regs(self) -> Any:
        regs = ffi.new("struct kvm_regs *")
        _call(self.fd, lib.KVM_GET_REGS, regs, "KVM_GET_REGS")
        return regs

    def set_regs(self, **values: int) -> None:
        """Set general registers by name; those not named are 0, rflags 2."""
        regs = ffi.new("struct kvm_regs *", {"rflags": 2, **values})
        _call(self.fd, lib.KVM_SET_REGS, regs, "KVM_SET_REGS")

    def get_sregs(self) -> Any:
        sregs = ffi.new("struct kvm_sregs *")
        _call(self.fd, lib.KVM_GET_SREGS, sregs, "KVM_GET_SREGS")
        return sregs

    def set_sregs(self, sregs: Any) -> None:
        _call(self.fd, lib.KVM_SET_SREGS, sregs, "KVM_SET_SREGS")

    def set_msrs(self, values: Sequence[tuple[int, int]]) -> int:
        """Set MSRs in order; returns how many the kernel took before it refused one."""
        table = ffi.new("struct kvm_msrs *", {"entries": len(values)})
        table.nmsrs = len(values)
        for row, (number, value) in zip(table.entries[0 : len(values)], values, strict=True):
            row.index, row.data = number, value
        return _call(self.fd, lib.KVM_SET_MSRS, table, "KVM_SET_MSRS")

    def reset_fpu(self) -> None:
        """The x87 and SSE state of a reset CPU (SDM 3A table 10-1: FCW 0x37f, MXCSR 0x1f80)."""
        fpu = ffi.new("struct kvm_fpu *", {"fcw": 0x37F, "mxcsr": 0x1F80})
        _call(self.fd, lib.KVM_SET_FPU, fpu, "KVM_SET_FPU")

    def set_local_interrupts(self) -> None:
        """LINT0 takes the PIC (ExtINT), LINT1 the NMI, as a PC's firmware leaves them."""
        lapic = ffi.new("struct kvm_lapic_state *")
        _call(self.fd, lib.KVM_GET_LAPIC, lapic, "KVM_GET_LAPIC")
        registers = ffi.buffer(lapic.regs)
        registers[0x350:0x354] = (0x700).to_bytes(4, "little")
        registers[0x360:0x364] = (0x400).to_bytes(4, "little")
        _call(self.fd, lib.KVM_SET_LAPIC, lapic, "KVM_SET_LAPIC")

    def kvmclock_pause(self) -> None:
        """Tell the guest that it was stopped, so that its soft-lockup watchdog stays calm."""
        lib.vmrun_ioctl_value(self.fd, lib.KVM_KVMCLOCK_CTRL, 0)  # EINVAL before the guest uses kvmclock

    def close(self) -> None:
        lib.vmrun_vcpu_close(self.state)
        os.close(self.fd)
