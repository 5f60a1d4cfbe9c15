"""The live machine: the graph's memory, CPUs and devices under one KVM VM."""

from __future__ import annotations

import time

from runner.bus.dispatch import Dispatch
from runner.definition.model import Json
from runner.devices.ports import (
    Effect,
    ExitStatus,
    GuestPanicked,
    PowerOff,
    Reset,
    WatchdogBit,
)
from runner.engine.kvm import registers
from runner.engine.kvm.attachment import DeviceAttachment
from runner.engine.kvm.char import CharEnd, ConsoleEnd
from runner.engine.kvm.chips import Chips
from runner.engine.kvm.cpuid import guest_cpuid
from runner.engine.kvm.interrupts import Messages, SharedLines
from runner.engine.kvm.loop import DeviceLoop
from runner.engine.kvm.vcpu import Ended, VcpuRunner
from runner.engine.protocol import Resources
from runner.firmware.entry import CpuState
from runner.graph.model import BackendClaim, Graph, Node
from runner.host.kvm import (
    CAP_COALESCED_MMIO,
    CAP_COALESCED_PIO,
    CAP_TSC_DEADLINE_TIMER,
    Vcpu,
    claimed_port_map,
    cpu_brand,
    install_kick_signal,
)
from runner.host.memory import Ram
from runner.light import RLock, Thread, import_module
from runner.typed import Any, Callable

JOIN_SECONDS = 2.0
LOG_LINES, LOG_WINDOW_NS = 20, 1_000_000_000


class Machine:
    """Built in the VM process, in the order that KVM wants: chips, memory, CPUs, devices."""

    def __init__(self, graph: Graph, ram: Ram, chips: Chips) -> None:
        self.graph, self.ram, self._resources = graph, ram, Resources({})
        self.lock = RLock()
        self.loop = DeviceLoop(self.lock)
        self.ports, self.mmio = Dispatch("I/O ports"), Dispatch("guest memory map")
        self.ended: Ended | None = None
        self.tell: Callable[[str, dict[str, Any]], None] = lambda _kind, _data: None
        self._log_window = self._logged = self._slots = 0
        self.devices: dict[str, Any] = {}
        self._backends: dict[str, Any] = {}
        self._kvm, self.vm = chips
        self.messages = Messages(self.vm)
        self.lines = SharedLines(self.vm)
        self._map_memory()
        self._claimed = claimed_port_map()
        self.vcpus = self._make_vcpus()
        self.runners: list[VcpuRunner] = []
        self._threads: list[Thread] = []

    def _map_memory(self) -> None:
        for region in self.ram.regions:
            self.vm.set_memory(self.memory_slot(), region.start, region.size, region.host_address)

    def memory_slot(self) -> int:
        """A number of KVM's memory slots that nobody else has."""
        self._slots += 1
        return self._slots - 1

    def _make_vcpus(self) -> list[Vcpu]:
        if any(v.apic_id > 254 for v in self.graph.vcpus):
            self.vm.use_wide_apic_ids()
        offer = self._kvm.supported_cpuid()
        deadline = bool(self._kvm.check(CAP_TSC_DEADLINE_TIMER))
        brand = cpu_brand()
        vcpus = []
        for plan in self.graph.vcpus:
            vcpu = self.vm.create_vcpu(plan.apic_id, self._claimed)
            vcpu.set_cpuid(guest_cpuid(offer, self.graph.cpus, plan, tsc_deadline=deadline, brand=brand))
            registers.reset(vcpu)
            vcpus.append(vcpu)
        ports = self._kvm.check(CAP_COALESCED_PIO)
        self.ring_page = self._kvm.check(CAP_COALESCED_MMIO) if ports else 0
        return vcpus

    def enter(self, state: CpuState) -> None:
        """Put CPU 0 where the boot protocol wants it; the others wait for its SIPI."""
        registers.enter(self.vcpus[0], state)

    def plug(self, resources: Resources) -> None:
        """Build every device of the graph and give it its addresses; bridges before what is below them."""
        self._resources = resources
        if self.graph.memory.merge and not self.ram.merge():
            self.log(
                "warning", "this host's kernel has no samepage merging (KSM): `memory.merge` has no effect"
            )
        for node in sorted(self.graph.nodes, key=_after_bridges):
            self._plug(node)
        for range_ in self.ports.ranges():
            self._claim_ports(range_.start, range_.size, True)

    def _claim_ports(self, start: int, size: int, claimed: bool) -> None:
        """Let the C loop know which ports need a decision."""
        for port in range(start, start + size):
            if claimed:
                self._claimed[port >> 3] |= 1 << (port & 7)
            else:
                self._claimed[port >> 3] &= ~(1 << (port & 7)) & 0xFF

    def _build(self, node: Node) -> Any:
        if node.kind == "pci_host":
            from runner.engine.kvm.pci import BarDispatch, PciHost

            mapper = BarDispatch(self.ports, self.mmio, self._claim_ports)
            self._pci = PciHost(self.graph, mapper, lambda event: self.log("warning", event))
            return self._pci
        attachment = DeviceAttachment(self, node)
        device = import_module(f"runner.devices.{node.kind}").build(node, attachment)
        if node.claim.pci is not None:
            self._pci.plug(node.claim.pci, device, attachment)
        return device

    def _plug(self, node: Node) -> None:
        device = self._build(node)
        self.devices[node.name] = device
        ranges = iter(getattr(device, "ranges", ()))
        for claim in node.claim.ports:
            assert claim.at is not None, "the planner gives every claim its ports"
            self.ports.add(claim.at, claim.size, next(ranges), node.name)
        for region in node.claim.regions:
            if region.kind in ("device", "ecam"):
                self.mmio.add(region.start, region.size, next(ranges), node.name)
        for claimed in node.claim.backends:
            end = self._backends.get(claimed.name)
            if isinstance(end, CharEnd) and hasattr(device, "feed"):
                end.connect(device)

    def backend(self, claim: BackendClaim, *, queued: bool = False) -> Any:
        """The object behind a backend, made on first use from the supervisor's descriptors.

        ``queued``: its device has virtqueues, which a character backend can serve.
        """
        if claim.name not in self._backends:
            if claim.kind == "char":
                fd = self._resources.fds[claim.name]
                made: Any = ConsoleEnd(claim.name, fd, self) if queued else CharEnd(fd, self.loop)
            else:
                module = import_module(f"runner.backends.{claim.kind.replace('-', '_')}")
                made = module.attach(claim, self._resources, self)
            self._backends[claim.name] = made
        return self._backends[claim.name]

    def log(self, level: str, event: str, **data: int | str) -> None:
        """A line for the supervisor's log; a guest that provokes more than a few a second is cut short."""
        now = time.monotonic_ns()
        if now - self._log_window > LOG_WINDOW_NS:
            self._log_window, self._logged = now, 0
        self._logged += 1
        if self._logged <= LOG_LINES:
            self.tell("log", {"level": level, "event": event, **data})

    def start(self) -> None:
        """Let every vCPU run on a thread of its own."""
        install_kick_signal()
        pinned = dict(enumerate(self.graph.cpus.affinity))
        for number, vcpu in enumerate(self.vcpus):
            runner = VcpuRunner(
                vcpu,
                number,
                self.ports,
                self.mmio,
                self.lock,
                self.on_effect,
                self.on_end,
                pinned.get(number, ()),
            )
            self.runners.append(runner)
            thread = Thread(target=runner.run, name=f"vcpu{number}", daemon=True)
            self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def on_effect(self, effect: Effect) -> None:
        """What a register write asked for; from any thread."""
        match effect:
            case ExitStatus(status):
                self.on_end(Ended("exit", status, f"exit port: {status}"), None)
            case PowerOff(cause):
                self.on_end(Ended("power-off", None, f"through {cause}"), None)
            case Reset(cause):
                self.on_end(Ended("reset", None, f"through {cause}"), None)
            case GuestPanicked(crash_loaded):
                self.on_end(
                    Ended("panic", None, "pvpanic" + (", crash kernel loaded" if crash_loaded else "")), None
                )
            case WatchdogBit(action):
                self.on_end(Ended("watchdog", None, f"action {action}"), None)

    def on_end(self, ended: Ended, vcpu: int | None) -> None:
        """The first reason stands; from any thread."""
        with self.lock:
            if self.ended is None:
                if vcpu is not None:
                    snapshot: dict[str, Json] = {**registers.snapshot(self.vcpus[vcpu])}
                    ended = ended._replace(facts={**ended.facts, "registers": snapshot})
                self.ended = ended
        self.loop.stop()

    def host_failed(self, detail: str) -> None:
        """Something of the host that the guest cannot do without; from any thread."""
        self.on_end(Ended("host-io", None, detail), None)

    def halt(self) -> None:
        """All vCPUs out of the guest, their threads ended, the last output flushed."""
        for runner in self.runners:
            runner.stop()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self._tell_devices("flush")
        for backend in reversed(self._backends.values()):
            close = getattr(backend, "close", None)
            if close is not None:
                close()

    @property
    def lost(self) -> int:
        """Bytes of console output that the supervisor has not taken, now that the guest has halted."""
        return sum(getattr(each, "lost", 0) for each in (*self.devices.values(), *self._backends.values()))

    def pause(self) -> None:
        """Every vCPU stands still when this returns."""
        for runner in self.runners:
            runner.pause()
        for runner in self.runners:
            runner.stopped.wait(JOIN_SECONDS)
        self._tell_devices("pause")

    def _tell_devices(self, what: str) -> None:
        """Devices whose time is the guest's stand still with it."""
        for device in self.devices.values():
            told: Callable[[], None] | None = getattr(device, what, None)
            if told is not None:
                told()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._tell_devices("resume")
        for runner in self.runners:
            runner.resume()

    def resize(self, name: str, columns: int, rows: int) -> None:
        """The terminal behind the virtio-console ``name`` has this size now."""
        self.devices[name].transport.device.resize(columns, rows)

    def inflate(self, size: int) -> None:
        """Ask the guest for ``size`` bytes of its memory."""
        self.devices["balloon"].transport.device.inflate_to(size)

    def press_power_button(self) -> None:
        """The ACPI power button."""
        self._tell_devices("press_power_button")


def _after_bridges(node: Node) -> int:
    """The platform (and with it the root bus), what others need (bridges, memory), and the others."""
    if node.claim.pci is None:
        return 0
    memory = any(region.kind == "pmem" for region in node.claim.regions)
    return 1 if node.claim.pci.bridge or memory else 2
