"""What differs between two graphs, as a person would say it: by device, region and key.

Devices are matched by section and name, regions by kind, owner and order, vCPUs by number;
so a device that was added is one line, and moves nothing else.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph import words
from runner.graph.encode import to_json
from runner.graph.model import Graph, Region
from runner.typed import NamedTuple

HEXADECIMAL = {"start", "at", "vendor", "device", "class_code", "subsystem_vendor", "subsystem_device"}


class Change(NamedTuple):
    """One difference: ``before`` None for what was added, ``after`` None for what was removed.

    ``path`` is stable and for people: ``device disks.root: claim.pci.slot``.
    """

    path: str
    before: str | None
    after: str | None


def diff(old: Graph, new: Graph) -> tuple[Change, ...]:
    """Every difference in the order of the graph; () when they are the same machine.

    Where the file lies and its text's hash are no difference of the machine, and left out.
    """
    before, after = _outline(old), _outline(new)
    changes: list[Change] = []
    for title in before:
        changes += _compare_tables(f"{title} ", before[title], after[title])
    return tuple(changes)


def show(changes: tuple[Change, ...]) -> str:
    """One line a change: ``+`` added, ``-`` removed, ``~`` changed with both values."""
    lines = []
    for path, before, after in changes:
        if before is None:
            lines.append(f"+ {path}: {after}")
        elif after is None:
            lines.append(f"- {path}: {before}")
        else:
            lines.append(f"~ {path}: {before} → {after}")
    return "".join(line + "\n" for line in lines)


def _outline(graph: Graph) -> dict[str, dict[str, Json]]:
    """The graph as tables, one a chapter, in which everything that has a name stands under it."""
    machine: dict[str, Json] = {"name": graph.name, "engine": words.engine(graph.engine)}
    machine |= {"timeout": graph.timeout, **graph.machine}
    boot, cpus, memory = (_fields(part) for part in (graph.boot, graph.cpus, graph.memory))
    return {
        "machine": machine,
        "engine": dict(graph.engine.reasons),
        "boot": boot,
        "cpus": cpus,
        "vCPU": {str(vcpu.number): {"apic_id": vcpu.apic_id} for vcpu in graph.vcpus},
        "memory": memory,
        "region": _regions(graph.regions),
        "device": {words.qualified(node): _fields(node) for node in graph.nodes},
        "note": dict.fromkeys(graph.notes, "noted"),
        "refusal": dict.fromkeys(graph.refusals, "refused"),
    }


def _fields(value: object) -> dict[str, Json]:
    fields = to_json(value)
    assert isinstance(fields, dict)
    return {key: part for key, part in fields.items() if key not in ("section", "name")}


def _regions(regions: tuple[Region, ...]) -> dict[str, Json]:
    """Regions of one kind and owner are told apart by their order."""
    named: dict[str, Json] = {}
    for region in regions:
        name = f"{region.kind} {region.owner}"
        number = sum(1 for other in named if other == name or other.startswith(f"{name} #"))
        named[f"{name} #{number + 1}" if number else name] = words.span(region.start, region.size)
    return named


def _compare(path: str, key: str, old: Json, new: Json) -> list[Change]:
    """Changes between two values that stand under ``key``; ``path`` is where, with its joint."""
    if old == new and type(old) is type(new):
        return []
    if _is_table(old) and _is_table(new):
        old, new = _table(old), _table(new)
    if not (isinstance(old, dict) and isinstance(new, dict)) or _is_path(old) or _is_path(new):
        return [Change(path + key, _said(key, old), _said(key, new))]
    below = f"{path}{key}." if ": " in path else f"{path}{key}: "
    return _compare_tables(below, old, new)


def _compare_tables(path: str, old: dict[str, Json], new: dict[str, Json]) -> list[Change]:
    changes: list[Change] = []
    for key in [*old, *(key for key in new if key not in old)]:
        if key not in old:
            changes.append(Change(path + key, None, _said(key, new[key])))
        elif key not in new:
            changes.append(Change(path + key, _said(key, old[key]), None))
        else:
            changes += _compare(path, key, old[key], new[key])
    return changes


def _is_table(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_path(value: Json) -> bool:
    return isinstance(value, dict) and "resolved" in value


def _table(rows: Json) -> dict[str, Json]:
    """A list of objects, each under its name, its BAR number, or its place in the list."""
    assert isinstance(rows, list)
    named: dict[str, Json] = {}
    for index, row in enumerate(rows):
        assert isinstance(row, dict)
        name = str(row.get("name") or row.get("bar", index))
        named[name if name not in named else f"{name}#{index}"] = row
    return named


def _said(key: str, value: Json) -> str:
    if isinstance(value, dict):
        return _object(value)
    if isinstance(value, list):
        return "[" + ", ".join(_said(key, part) for part in value) + "]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key in HEXADECIMAL:
        return f"{value:#x}"
    if isinstance(value, int) and key == "size":
        return words.size(value)
    return "none" if value is None else str(value).strip().replace("\n", " ⏎ ")


def _object(value: dict[str, Json]) -> str:
    if _is_path(value):
        return str(value["text"])
    if "kind" in value and "claim" in value:
        return f"{value['kind']}{_place_of(value['claim'])}"
    told = [f"{key} {_said(key, part)}" for key, part in value.items() if part not in ("", None, [])]
    return "{" + ", ".join(told) + "}"


def _place_of(claim: Json) -> str:
    pci = claim.get("pci") if isinstance(claim, dict) else None
    return f" at {pci['slot']}" if isinstance(pci, dict) else ""
