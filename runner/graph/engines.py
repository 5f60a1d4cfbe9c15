"""Which engine runs a definition, and for each of the preference list why (not)."""

from __future__ import annotations

from runner.definition.model import Definition
from runner.graph.model import EngineChoice
from runner.hostfacts import HostFacts
from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

NEEDS = {"kvm": "build", "qemu": "qemu"}
"""The function that a device's module must offer for an engine."""


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
    for engine in preference:
        unusable = _unusable(engine, qemu_accelerator(definition), facts)
        why_not = "; ".join([*([unusable] if unusable else []), *refusals(engine, definition, modules)])
        if why_not:
            reasons.append((engine, why_not))
        elif chosen:
            reasons.append((engine, f"not needed, {chosen} comes first"))
        else:
            chosen = engine
            reasons.append((engine, _usable(engine, facts)))
    accelerator = {"kvm": "kvm", "qemu": qemu_accelerator(definition)}.get(chosen, "")
    return EngineChoice(chosen, accelerator, tuple(reasons))


def refusals(engine: str, definition: Definition, modules: tuple[ModuleType | None, ...]) -> tuple[str, ...]:
    """What of this definition ``engine`` cannot do, whatever the host: one clause, or none."""
    missing = [
        f"`{entry.name}` ({entry.kind})"
        for entry, module in zip(definition.devices, modules, strict=True)
        if not hasattr(module, NEEDS[engine])
    ]
    if engine == "kvm":
        missing += [f"`{key}`" for key in definition.machine if key != "accelerator"]
        missing += [f"CPU model {definition.cpus.model}"] if definition.cpus.model is not None else []
    return (f"it has no {', '.join(missing)}",) if missing else ()


def qemu_accelerator(definition: Definition) -> str:
    """TCG, unless the definition asks QEMU for KVM."""
    return "kvm" if definition.machine.get("accelerator") == "kvm" else "tcg"


def _unusable(engine: str, accelerator: str, facts: HostFacts) -> str:
    if facts.arch != "x86_64":
        return f"the host is {facts.arch}, not x86_64"
    if engine == "qemu" and not facts.qemu.path:
        return "qemu-system-x86_64 is not installed"
    if "kvm" in (engine, accelerator) and not facts.kvm.usable:
        return facts.kvm.why or "/dev/kvm does not exist"
    return ""


def _usable(engine: str, facts: HostFacts) -> str:
    if engine == "kvm":
        return facts.kvm.why or f"/dev/kvm works ({facts.kvm.vendor_module})"
    return f"QEMU {facts.qemu.version} is installed" if facts.qemu.version else "QEMU is installed"
