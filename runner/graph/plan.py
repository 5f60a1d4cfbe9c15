"""plan(definition, host facts) -> graph: every decision, and nothing else.

Pure and deterministic: the same two values give the same graph on every host.  Device
modules are imported by kind, so a definition pays for what it has.
"""

from __future__ import annotations

from runner.definition.model import CharBackend, CharPort, Definition, Json, Memory
from runner.graph import engines, passthrough, place, shorter_boot, x86
from runner.graph.model import BackendClaim, Boot, Claim, Graph, Node
from runner.hostfacts import HostFacts
from runner.light import import_module
from runner.typed import TYPE_CHECKING, Mapping, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

PLATFORM_KVM = ("i8042", "cmos_rtc", "acpi_pm")
PLATFORM_QEMU = ("cmos_rtc",)  # QEMU's chipset brings the rest
SHARED = ("virtiofs", "vhost-user")  # backends in other processes that map the guest's memory


class Wanted(NamedTuple):
    """A device before it has been given anything."""

    kind: str
    section: str
    name: str
    options: Mapping[str, Json]
    slot: str | None
    module: ModuleType

    @property
    def qualified(self) -> str:
        """``disks.root``; the bare name for a single device and for what every PC has."""
        return self.name if self.section in ("", self.name) else f"{self.section}.{self.name}"


def plan(definition: Definition, facts: HostFacts, *, engine: tuple[str, ...] | None = None) -> Graph:
    """Resolve a definition for a host; ``engine`` replaces the definition's preference.

    A graph is made even when no engine can run it (``graph.engine.name`` is ""), so that it
    can be looked at.  Raises DefinitionError for what cannot be laid out, Refused where the host lacks
    a function that is to be passed through.
    """
    passthrough.require_functions(definition.devices, definition.memory.size, facts)
    preference = engine if engine is not None else definition.engine
    modules = engines.modules_of(definition)
    choice = engines.choose(definition, facts, modules, preference)
    layout = choice.name or preference[0]
    wanted = _platform(definition, layout) + _devices(definition, modules, facts)
    placed = place.place(tuple((item, _claim(item)) for item in wanted), layout, definition, facts)
    memory, notes = _memory(definition.memory, placed.nodes, layout)
    return Graph(
        name=definition.name,
        source=definition.source,
        digest=definition.digest,
        engine=choice,
        boot=_boot(definition),
        cpus=definition.cpus,
        vcpus=x86.vcpus(definition.cpus),
        memory=memory,
        regions=placed.regions,
        nodes=placed.nodes,
        timeout=definition.timeout,
        machine=definition.machine,
        notes=placed.notes + notes + passthrough.notes(placed.nodes, memory.size, facts),
        refusals=passthrough.refusals(definition.devices, memory.size, facts),
    )


def _boot(definition: Definition) -> Boot:
    """The kernel's parameters are the file's own, and after them what it asks for by name."""
    added = shorter_boot.parameters(definition.shorten_boot, definition.cmdline)
    cmdline = " ".join((*filter(None, (definition.cmdline,)), *(parameter for parameter, _ in added)))
    return Boot(definition.kernel, definition.initramfs, cmdline, added)


def character_options(backend: CharBackend | CharPort) -> dict[str, Json]:
    """A serial line's target as a device's options: the mode, and the path where it has one."""
    options: dict[str, Json] = {"mode": backend.mode}
    if backend.path is not None:
        options["path"] = {"text": backend.path.text, "resolved": backend.path.resolved}
    if isinstance(backend, CharBackend) and backend.ports:
        options["ports"] = [{"name": port.name, **character_options(port)} for port in backend.ports]
    return options


def _platform(definition: Definition, layout: str) -> tuple[Wanted, ...]:
    """What every machine has: clock, power, reset, the exit port, and the serial line if wanted."""
    kinds: list[tuple[str, str, dict[str, Json]]] = [
        (kind, kind, {}) for kind in (PLATFORM_QEMU if layout == "qemu" else PLATFORM_KVM)
    ]
    if definition.serial.mode != "off":
        kinds.append(("uart16550", "serial", character_options(definition.serial)))
    kinds.append(("exit_port", "exit_port", {}))
    made = [
        Wanted(kind, "", name, options, None, import_module(f"runner.devices.{kind}"))
        for kind, name, options in kinds
    ]
    if definition.console.mode != "off":
        module = import_module("runner.devices.virtio_console")
        options = character_options(definition.console)
        made.append(Wanted("virtio_console", "console", "console", options, None, module))
    return tuple(made)


def _devices(
    definition: Definition, modules: tuple[ModuleType | None, ...], facts: HostFacts
) -> tuple[Wanted, ...]:
    made = []
    for entry, module in zip(definition.devices, modules, strict=True):
        if module is None:
            continue
        item = Wanted(entry.kind, entry.section, entry.name, entry.options, entry.slot, module)
        if hasattr(module, "resolve"):
            item = item._replace(options=module.resolve(item.qualified, item.options, facts))
        if hasattr(module, "derive"):  # what follows from the names alone: a stable MAC
            item = item._replace(options=module.derive(definition.name, item.name, item.options))
        made.append(item)
    return tuple(made)


def _claim(item: Wanted) -> Claim:
    claim: Claim = item.module.claim(item.qualified, item.options)
    bus = item.options.get("bus")
    if claim.pci is not None:
        claim = claim._replace(
            pci=claim.pci._replace(slot=item.slot, bus=claim.pci.bus or (bus if isinstance(bus, str) else ""))
        )
    return claim


def _memory(memory: Memory, nodes: tuple[Node, ...], layout: str) -> tuple[Memory, tuple[str, ...]]:
    """Memory that another process has to map is shared, asked for or not."""
    for node in nodes:
        for backend in node.claim.backends:
            if _maps_memory(backend, layout) and not memory.shared:
                note = f"memory is shared, since `{node.name}` ({backend.kind}) is served by another process"
                if memory.merge:
                    note += ", and shared memory is not merged: `memory.merge` has no effect"
                return memory._replace(shared=True, merge=False), (note,)
    return memory, ()


def _maps_memory(backend: BackendClaim, layout: str) -> bool:
    """Whether another process serves it; QEMU reads qcow2 images itself."""
    qcow2 = backend.kind == "block" and backend.options.get("format") == "qcow2"
    return backend.kind in SHARED or (qcow2 and layout == "kvm")
