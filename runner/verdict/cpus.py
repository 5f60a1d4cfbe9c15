"""What the guest's CPUs did last, in words; both engines' snapshots."""

from __future__ import annotations

from runner.definition.model import Json
from runner.typed import Mapping

KERNEL_HALF = 1 << 63  # canonical addresses with this bit are the kernel's (Linux, x86-64)
SHOWN = 4


def cpu_lines(told: Mapping[str, Json]) -> list[str]:
    """One line a CPU of an event's ``cpus``; a crowd is cut short."""
    cpus = told.get("cpus")
    if not isinstance(cpus, list):
        return []
    lines = [_line(number, cpu) for number, cpu in enumerate(cpus) if isinstance(cpu, dict)]
    if len(lines) > SHOWN:
        lines = [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more"]
    return lines


def _line(number: int, cpu: Mapping[str, Json]) -> str:
    if "unreadable" in cpu:
        return f"CPU {cpu.get('cpu', number)}: {cpu['unreadable']}"
    rip = cpu.get("rip")
    words = [f"CPU {cpu.get('cpu', number)}: at {rip}"]
    try:
        words.append("in the kernel" if int(str(rip), 16) & KERNEL_HALF else "below the kernel's addresses")
    except ValueError:
        return words[0]
    if cpu.get("halted") is True:
        words.append("halted")
    if "rflags" in cpu:
        words.append("interrupts " + ("on" if int(str(cpu["rflags"]), 16) & 0x200 else "off"))
    return ", ".join(words)
