"""What a machine with passed-through functions does to its host, said before anything is done."""

from __future__ import annotations

from runner.definition.model import DeviceEntry, Json
from runner.graph import words, x86
from runner.graph.model import Node
from runner.hostfacts import HostFacts, PciFacts
from runner.typed import TYPE_CHECKING, Iterable

if TYPE_CHECKING:
    from runner.lending.findings import Finding

VFIO = "vfio"


def notes(nodes: tuple[Node, ...], memory: int, facts: HostFacts) -> tuple[str, ...]:
    """A line for each function that is taken from its driver, and one for the memory that is pinned."""
    said: list[str] = []
    for node in nodes:
        function = node.options.get("function")
        if node.kind == VFIO and isinstance(function, dict):
            said += _function(node.name, function, facts)
    if said:
        limit = "no limit" if facts.memlock is None else f"the limit is {words.size(facts.memlock)}"
        said.append(f"{words.size(memory)} of memory is pinned for DMA ({limit})")
    return tuple(said)


def require_functions(entries: Iterable[DeviceEntry], memory: int, facts: HostFacts) -> None:
    """Without its function a device has no place: then all that stands against the run is said at once.

    Raises Refused.
    """
    passed = [entry for entry in entries if entry.kind == VFIO]
    if passed:
        from runner.lending.match import matches

        if matches(passed, facts)[1]:
            refuse(passed, memory, facts)


def refuse(entries: Iterable[DeviceEntry], memory: int, facts: HostFacts) -> None:
    """Raise Refused, or RefusedPermission, where preflight finds anything."""
    from runner.lending.findings import refuse as raise_for

    raise_for(findings(entries, memory, facts))


def refusals(entries: Iterable[DeviceEntry], memory: int, facts: HostFacts) -> tuple[str, ...]:
    """What preflight would find against these functions on the host of these facts."""
    return tuple(f"{one.words()}; {one.mend}" for one in findings(entries, memory, facts))


def findings(entries: Iterable[DeviceEntry], memory: int, facts: HostFacts) -> tuple[Finding, ...]:
    """The same, each with its rule."""
    passed = [entry for entry in entries if entry.kind == VFIO]
    if not passed:
        return ()
    from runner.lending.preflight import judged

    return judged(passed, facts, x86.backing(memory))[1]


def _function(name: str, function: dict[str, Json], facts: HostFacts) -> list[str]:
    address, group = function["address"], function["iommu_group"]
    place = "in no IOMMU group" if group is None else f"IOMMU group {group}"
    ids = f"{function['vendor']}:{function['device']}"
    said = [f"`{name}` is the host's {address} ({ids}), {place}, {_taken(str(function['driver']))}"]
    if not function.get("capabilities_known", True):
        said.append(f"only root sees how many message vectors `{name}` has: there is room for some")
    others = [one for one in facts.pci if group is not None and one.iommu_group == group]
    said += [_member(one) for one in others if one.address != address and not one.is_bridge]
    return said


def _taken(driver: str) -> str:
    if driver == "vfio-pci":
        return "on vfio-pci already"
    return f"taken from {driver} for the run" if driver else "without a driver now"


def _member(one: PciFacts) -> str:
    where = f"on {one.driver}" if one.driver else "without a driver"
    return f"{one.address} ({one.vendor}:{one.device}) is in the same group, {where}"
