"""How the parts of a graph are said to people: one wording for tree, DOT, SVG and diff."""

from __future__ import annotations

from runner.definition.model import (
    Cpus,
    InitramfsBuild,
    InitramfsFile,
    InitramfsSource,
    Json,
    KernelDeb,
    KernelFile,
    KernelSource,
    Memory,
)
from runner.graph.model import BackendClaim, BarClaim, EngineChoice, IrqClaim, Node, PciClaim, PortClaim
from runner.typed import Mapping

BY_FIRMWARE = "placed by QEMU's firmware"
SIZES = ("size", "blank")
"""Options that count bytes."""


def size(length: int) -> str:
    """``512 MiB``: the largest binary unit that leaves a whole number."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if length and not length % (1 << power):
            return f"{length >> power} {unit}"
    return count(length, "byte")


def span(start: int, length: int, digits: int = 0) -> str:
    """``0xc0000000–0xc0000fff``."""
    return f"{start:#0{digits + 2}x}–{start + length - 1:#0{digits + 2}x}"


def count(number: int, one: str, many: str = "") -> str:
    """``1 core``, ``2 cores``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def qualified(node: Node) -> str:
    """``disks.root``; the bare name for a single device and for what every PC has."""
    return node.name if node.section in ("", node.name) else f"{node.section}.{node.name}"


def engine(choice: EngineChoice) -> str:
    """``kvm``, ``qemu (tcg)``, or that there is none."""
    if not choice.name:
        return "none can run it here"
    return choice.name if choice.name == choice.accelerator else f"{choice.name} ({choice.accelerator})"


def kernel(source: KernelSource | None) -> str:
    """Where the kernel comes from."""
    match source:
        case None:
            return "none"
        case KernelFile(path=path):
            return path.text
        case KernelDeb(package=package, version=version):
            return f"Debian package {package}" + (f" {version}" if version else "")
    return f"{source.url} (sha256 {source.sha256[:12]}…)"


def initramfs(source: InitramfsSource | None) -> str:
    """A file, or what it is built of."""
    if source is None:
        return "none"
    if isinstance(source, InitramfsFile):
        return source.path.text
    return "built of " + ", ".join(" ".join(part) for part in ingredients(source))


def ingredients(source: InitramfsBuild) -> list[tuple[str, str]]:
    """What an initramfs is built of: (word, what)."""
    parts = [("busybox", "the host's" if source.busybox is None else source.busybox.text)]
    if source.modules:
        parts.append(("modules", " ".join(source.modules)))
    parts += [("file", f"{guest} = {host.text}") for guest, host in source.files]
    if source.root is not None:
        parts.append(("root", source.root))
    if source.run is not None:
        lines = source.run.strip().splitlines() or [""]
        parts.append(("run", lines[0] + (" …" if len(lines) > 1 else "")))
    return parts


def topology(cpus: Cpus) -> str:
    """``1 socket × 2 cores × 2 threads``."""
    levels = (count(cpus.sockets, "socket"), count(cpus.cores, "core"), count(cpus.threads, "thread"))
    return " × ".join(levels)


def memory(given: Memory) -> str:
    """Size and how it is backed."""
    parts = [size(given.size)]
    parts += [f"{given.hugepages} huge pages"] if given.hugepages else []
    parts += [word for word in ("shared", "prefault", "merge") if getattr(given, word)]
    parts += [count(len(given.zones), "NUMA node")] if given.zones else []
    return ", ".join(parts)


def port(claim: PortClaim) -> str:
    """``0x3f8–0x3ff``, ``0xf4``."""
    if claim.at is None:
        return "anywhere"
    return f"{claim.at:#x}" if claim.size == 1 else span(claim.at, claim.size)


def irq(claim: IrqClaim) -> str:
    """``IRQ 4 edge``, ``GSI 17 level low``."""
    line = "?" if claim.line is None else str(claim.line)
    name = "GSI" if claim.line is not None and claim.line >= 16 else "IRQ"
    return f"{name} {line} {claim.trigger}" + (" active low" if claim.polarity == "low" else "")


def function(pci: PciClaim) -> str:
    """``1af4:1042``."""
    return f"{pci.vendor:04x}:{pci.device:04x}"


def bar(claim: BarClaim) -> str:
    """``mem64 0x140000000–0x140003fff, 16 KiB, prefetchable``."""
    at = BY_FIRMWARE if claim.at is None else span(claim.at, claim.size)
    more = ", prefetchable" if claim.prefetchable else ""
    return f"{claim.kind} {at}, {size(claim.size)}{more}"


def vectors(pci: PciClaim) -> str:
    """``3 MSI-X vectors``, ``INTA``; "" for a function without interrupts."""
    parts = [count(pci.msix_vectors, "MSI-X vector")] if pci.msix_vectors else []
    parts += [count(pci.msi_vectors, "MSI vector")] if pci.msi_vectors else []
    parts += ["INT" + "?ABCD"[pci.intx_pin]] if pci.intx_pin else []
    return ", ".join(parts)


def backend(claim: BackendClaim) -> str:
    """``block root.img, format raw, readonly``."""
    return f"{claim.kind} {', '.join(options(claim.options))}".rstrip()


def options(given: Mapping[str, Json]) -> list[str]:
    """Options that say something: paths as written, true ones by name, empty and false ones not at all."""
    said = []
    for key, value in given.items():
        if isinstance(value, dict) and "text" in value and "resolved" in value:
            said.append(str(value["text"]))
        elif value is True:
            said.append(key)
        elif key == "mode":
            said.append(str(value))
        elif key in SIZES and isinstance(value, int):
            said.append(f"{key} {size(value)}")
        elif value not in (None, False, "", []) and value != {}:
            said.append(f"{key} {_plain(value)}")
    return said


def _plain(value: Json) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(options(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(part) for part in value) + "]"
    return str(value)
