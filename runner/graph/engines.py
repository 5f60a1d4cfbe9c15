"""Which engine runs a definition, and for each of the preference list why (not).

What an engine cannot do is said here, by :func:`lacks` for every host and by :func:`unusable` for
this one, and nowhere else: so a plan, a check and a run tell the same.
"""

from __future__ import annotations

from runner.definition.findings import Complaint, Path
from runner.definition.model import Definition, DeviceEntry
from runner.graph.model import EngineChoice
from runner.graph.x86 import CPU_FEATURES
from runner.hostfacts import HostFacts, KvmFacts
from runner.light import import_module
from runner.typed import TYPE_CHECKING, Iterable, Iterator, NamedTuple

if TYPE_CHECKING:
    from types import ModuleType

NEEDS = {"kvm": "build", "qemu": "qemu"}
"""The function that a device's module must offer for an engine."""

# Without one of these the engine kvm does not start a machine.
REQUIRED_CAPABILITIES = (
    "KVM_CAP_IRQCHIP", "KVM_CAP_USER_MEMORY", "KVM_CAP_SET_TSS_ADDR", "KVM_CAP_EXT_CPUID",
    "KVM_CAP_IRQ_ROUTING", "KVM_CAP_IRQFD", "KVM_CAP_PIT2", "KVM_CAP_IOEVENTFD", "KVM_CAP_IMMEDIATE_EXIT",
)  # fmt: skip

WITHOUT_FEATURE = "leave it out of cpus.features, or run this on a host whose KVM offers it"
"""What to do where a CPU feature is not there."""

Q35_BRIDGE = 0x1F  # QEMU's q35 has its LPC bridge in 00:1f


class Lack(NamedTuple):
    """What of a definition an engine cannot do, whatever the host: "it" ``verb`` ``what``."""

    path: Path
    verb: str
    what: str


def choose(
    definition: Definition,
    facts: HostFacts,
    modules: tuple[ModuleType | None, ...],
    preference: tuple[str, ...],
) -> EngineChoice:
    """The first engine of ``preference`` that this host has and that can do all of the definition.

    ``modules`` are those of ``definition.devices``, None where there is none.  No engine:
    an EngineChoice with the name "" and every reason.
    """
    chosen = ""
    reasons: list[tuple[str, str]] = []
    cpus = definition.cpus.total
    for engine in preference:
        accelerator = qemu_accelerator(definition)
        here = unusable(engine, facts, accelerator=accelerator, cpus=cpus)
        if not here and "kvm" in (engine, accelerator):
            here = not_offered(definition.cpus.features, facts.kvm)
        why_not = "; ".join([*([here] if here else []), *clauses(lacks(engine, definition, modules))])
        if why_not:
            reasons.append((engine, why_not))
        elif chosen:
            reasons.append((engine, f"not needed, {chosen} comes first"))
        else:
            chosen = engine
            reasons.append((engine, _usable(engine, facts)))
    accelerator = {"kvm": "kvm", "qemu": qemu_accelerator(definition)}.get(chosen, "")
    return EngineChoice(chosen, accelerator, tuple(reasons))


def complaints(definition: Definition, preference: tuple[str, ...]) -> tuple[Complaint, ...]:
    """What is wrong with a definition that no engine of ``preference`` can run on any host."""
    modules = modules_of(definition)
    found = {engine: lacks(engine, definition, modules) for engine in preference}
    if not all(found.values()):
        return ()
    able = [engine for engine in NEEDS if not lacks(engine, definition, modules)]
    expected = f'engine = "{able[0]}"' if able else "what one engine can do all of"
    return tuple(
        Complaint(one.path, "key", "engine", f"the engine {engine} {one.verb} {one.what}", expected)
        for engine, lacking in found.items()
        for one in lacking
    )


def lacks(engine: str, definition: Definition, modules: tuple[ModuleType | None, ...]) -> tuple[Lack, ...]:
    """What of this definition ``engine`` cannot do, whatever the host."""
    devices = list(zip(definition.devices, modules, strict=True))
    found = [
        Lack(path_of(entry), "has no", f"`{entry.name}` ({entry.kind})")
        for entry, module in devices
        if not hasattr(module, NEEDS[engine])
    ]
    found += _of_machine(definition) if engine == "kvm" else _of_slots(definition.devices)
    for entry, module in devices:
        of_keys = getattr(module, "lacks", None)
        for key, verb in of_keys(engine, entry.options) if of_keys else ():
            path = (*path_of(entry), key)
            found.append(Lack(path, verb, f"`{'.'.join(path)}`"))
    return tuple(found)


def clauses(found: Iterable[Lack]) -> list[str]:
    """``it has no `reader` (sdhci_pci), `iommu` ``: a clause for each verb."""
    by_verb: dict[str, list[str]] = {}
    for one in found:
        by_verb.setdefault(one.verb, []).append(one.what)
    return [f"it {verb} {', '.join(what)}" for verb, what in by_verb.items()]


def unusable(engine: str, facts: HostFacts, *, accelerator: str = "tcg", cpus: int = 1) -> str:
    """Why this host does not have ``engine`` for a machine of so many CPUs; "" where it has."""
    if facts.arch != "x86_64":
        return f"the host is {facts.arch}, not x86_64"
    if engine == "qemu" and not facts.qemu.path:
        return "qemu-system-x86_64 is not installed"
    if "kvm" not in (engine, accelerator):
        return ""
    if not facts.kvm.usable:
        return facts.kvm.why or "/dev/kvm does not exist"
    if engine == "kvm" and (absent := lacking(facts.kvm, REQUIRED_CAPABILITIES)):
        return f"this host's KVM lacks {', '.join(absent)}"
    if 0 < facts.kvm.max_vcpus < cpus:
        return f"this host's KVM gives a machine at most {facts.kvm.max_vcpus} CPUs, and it has {cpus}"
    return ""


def lacking(kvm: KvmFacts, wanted: tuple[str, ...]) -> list[str]:
    """Which of these capabilities are not there.  Facts that name none at all refuse nothing."""
    have = dict(kvm.capabilities)
    return [name for name in wanted if have and not have.get(name)]


def not_offered(features: tuple[str, ...], kvm: KvmFacts) -> str:
    """Which of the features that are asked for (``+name``) KVM cannot give a guest; "": none, or unknown."""
    registers, capabilities = dict(kvm.cpuid), dict(kvm.capabilities)
    absent = []
    for name in (word[1:] for word in features if word[0] == "+" and word[1:] in CPU_FEATURES):
        leaf, register, bit = CPU_FEATURES[name]
        has = registers.get(f"{leaf:x}.{register}", 0) >> bit & 1
        if name == "tsc_deadline_timer":  # of this one a capability tells
            has = capabilities.get("KVM_CAP_TSC_DEADLINE_TIMER", 0)
        if registers and not has:
            absent.append(f"`{name}`")
    return f"this host's KVM does not offer {', '.join(absent)} to guests" if absent else ""


def modules_of(definition: Definition) -> tuple[ModuleType | None, ...]:
    """The module of each device, or None: then no engine can have it, and each says so by name."""
    return tuple(_module(entry.kind) for entry in definition.devices)


def path_of(entry: DeviceEntry) -> tuple[str, ...]:
    """Where a device stands in the definition: ``disks.root``, ``vsock``."""
    return (entry.section,) if entry.section == entry.name else (entry.section, entry.name)


def qemu_accelerator(definition: Definition) -> str:
    """TCG, unless the definition asks QEMU for KVM."""
    return "kvm" if definition.machine.get("accelerator") == "kvm" else "tcg"


def _module(kind: str) -> ModuleType | None:
    try:
        return import_module(f"runner.devices.{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"runner.devices.{kind}":
            raise
        return None


def _of_machine(definition: Definition) -> Iterator[Lack]:
    """Parts that only QEMU has.  KVM, where it is asked for, is what our own engine has."""
    for key in definition.machine:
        if key != "accelerator":
            yield Lack((key,), "has no", f"`{key}`")
    if definition.cpus.model is not None:
        yield Lack(("cpus", "model"), "has no", f"CPU model {definition.cpus.model}")
    for index, word in enumerate(definition.cpus.features):
        if word[1:] not in CPU_FEATURES:
            yield Lack(("cpus", "features", index), "knows no CPU feature", f"`{word[1:]}`")


def _of_slots(devices: tuple[DeviceEntry, ...]) -> Iterator[Lack]:
    for entry in devices:
        slot = entry.slot or ""
        if slot.startswith("00:") and int(slot[3:5], 16) == Q35_BRIDGE and not entry.options.get("bus"):
            yield Lack((*path_of(entry), "slot"), "keeps its own chipset in", f"slot {slot}")


def _usable(engine: str, facts: HostFacts) -> str:
    if engine == "kvm":
        return facts.kvm.why or f"/dev/kvm works ({facts.kvm.vendor_module})"
    return f"QEMU {facts.qemu.version} is installed" if facts.qemu.version else "QEMU is installed"
