"""Which slot of the PCI root bus each function gets (decision record 0050).

A fixed ``slot`` is kept.  Every section has device numbers of its own, so no section moves
another.  The single devices (rng, console, …) have one each.  Disks and network interfaces
are numbered in the order of the file, since the guest names them in the order of their
slots (vda, vdb).  Every other device has a home that only its own name decides; where two
have the same, the earlier in the file keeps it and the later goes to the next free slot.
"""

from __future__ import annotations

from runner.errors import DefinitionError
from runner.typed import Iterator, NamedTuple

HOST_BRIDGE, CHIPSET = 0x00, 0x1F  # 0x1f is taken in QEMU's q35; here it is the last resort
SINGLE = {"rng": 0x01, "console": 0x02, "vsock": 0x03, "balloon": 0x04, "watchdog": 0x05}
RANGES = {"net": (0x0B, 0x10), "disks": (0x10, 0x18), "devices": (0x18, 0x1F)}
OTHERS = (0x06, 0x0B)
ORDERED = ("net", "disks")


class Wish(NamedTuple):
    """A function that needs a slot; ``slot`` is "00:05.0" where the definition fixes it."""

    section: str
    name: str
    slot: str | None
    bus: str = ""  # name of the root port above it
    bridge: bool = False


class Place(NamedTuple):
    """Bus, device and function numbers; ``str`` gives "00:05.0"."""

    bus: int
    device: int
    function: int

    def __str__(self) -> str:
        """As ``lspci`` writes it."""
        return f"{self.bus:02x}:{self.device:02x}.{self.function}"


def assign(
    wishes: tuple[Wish, ...], reserved: tuple[int, ...] = (HOST_BRIDGE,)
) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """A place for each wish, and notes on those that did not get their home.

    ``reserved`` are device numbers of the root bus that nobody may have.
    Raises DefinitionError for a fixed slot that is taken, and for a full bus.
    """
    taken: dict[Place, str] = {Place(0, number, 0): "the chipset" for number in reserved}
    places: dict[int, Place] = {}
    notes: list[str] = []
    for index, wish in enumerate(wishes):
        if wish.slot is not None and not wish.bus:
            places[index] = _fixed(wish, taken)
    for index, wish in enumerate(wishes):
        if wish.slot is None and not wish.bus:
            places[index] = _free(wish, taken, notes)
    _below_ports(wishes, places, taken)
    _check_functions(taken)
    return tuple(places[index] for index in range(len(wishes))), tuple(notes)


def parse(slot: str) -> Place:
    """``"00:05.0"``."""
    bus, _, rest = slot.partition(":")
    device, _, function = rest.partition(".")
    return Place(int(bus, 16), int(device, 16), int(function, 16))


def home(section: str, name: str) -> int:
    """The device number that section and name alone decide; for ordered sections the first one."""
    if section in SINGLE:
        return SINGLE[section]
    first, end = RANGES.get(section, OTHERS)
    if section in ORDERED:
        return first
    return first + _hash(f"{section}.{name}") % (end - first)


def _fixed(wish: Wish, taken: dict[Place, str]) -> Place:
    assert wish.slot is not None
    place = parse(wish.slot)
    if place.bus:
        raise DefinitionError(
            f"slot {place} of `{wish.name}` is not on the root bus (00), and it sits below no root port",
            hint='name the port it sits below: bus = "PORT"',
        )
    if place in taken:
        raise DefinitionError(f"slot {place} of `{wish.name}` is taken by {taken[place]}")
    taken[place] = f"`{wish.name}`"
    return place


def _free(wish: Wish, taken: dict[Place, str], notes: list[str]) -> Place:
    wanted = Place(0, home(wish.section, wish.name), 0)
    for number in _candidates(wish):
        place = Place(0, number, 0)
        if any(other.bus == 0 and other.device == number for other in taken):
            continue
        if place != wanted and wish.section not in ORDERED:
            owner = next(who for other, who in taken.items() if other[:2] == wanted[:2])
            notes.append(
                f'`{wish.name}` is at {place}, since {owner} has {wanted}; slot = "{place}" fixes it there'
            )
        taken[place] = f"`{wish.name}`"
        return place
    raise DefinitionError(
        f"no slot is left on the PCI root bus for `{wish.name}`",
        hint="put devices below a root port, or on functions 1-7 by slot",
    )


def _candidates(wish: Wish) -> Iterator[int]:
    """The home, the rest of its range from there on, then what lies above, then below."""
    first, end = RANGES.get(wish.section, OTHERS)
    start = home(wish.section, wish.name)
    yield start
    if wish.section not in SINGLE:
        yield from (first + (start - first + step) % (end - first) for step in range(1, end - first))
    yield from range(end, 32)
    yield from range(1, first)
    if wish.section in SINGLE:
        yield from range(first, end)


def _below_ports(wishes: tuple[Wish, ...], places: dict[int, Place], taken: dict[Place, str]) -> None:
    """Buses 1, 2, … are the root ports' in order of their slots, as firmware numbers them."""
    ports = sorted((places[i], wish.name) for i, wish in enumerate(wishes) if wish.bridge and not wish.bus)
    buses = {name: number for number, (_, name) in enumerate(ports, start=1)}
    for index, wish in enumerate(wishes):
        if wish.bus:
            places[index] = _below(wish, buses, taken)


def _below(wish: Wish, buses: dict[str, int], taken: dict[Place, str]) -> Place:
    if wish.bus not in buses:
        known = ", ".join(f"`{name}`" for name in buses) or "none"
        message = f"`{wish.name}` sits below `{wish.bus}`, which is no root port"
        raise DefinitionError(message, hint=f"root ports of this machine: {known}")
    first = Place(buses[wish.bus], 0, 0)
    place = parse(wish.slot) if wish.slot else first
    if place[:2] != first[:2]:
        message = f"slot {place} of `{wish.name}` is not below `{wish.bus}`, which has one device, {first}"
        raise DefinitionError(message, hint=f'slot = "{first}", or none')
    if place in taken:
        raise DefinitionError(f"`{wish.name}` and {taken[place]} both sit below `{wish.bus}`, at {place}")
    taken[place] = f"`{wish.name}`"
    return place


def _check_functions(taken: dict[Place, str]) -> None:
    """Without function 0 nobody looks for the others (PCI 3.0, section 3.2.2.3.4)."""
    for place, who in taken.items():
        if place.function and place._replace(function=0) not in taken:
            first = place._replace(function=0)
            message = f"{who} is at {place}, and nothing is at {first}: the guest would not see it"
            raise DefinitionError(message, hint=f'slot = "{first}"')


def _hash(text: str) -> int:
    """FNV-1a with MurmurHash3's last mixing steps, 32 bits: the same on every host and Python.

    FNV alone leaves the low bits, which the remainder uses, poorly mixed for short names.
    """
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFF_FFFF
    value = (value ^ value >> 16) * 0x85EBCA6B & 0xFFFF_FFFF
    value = (value ^ value >> 13) * 0xC2B2AE35 & 0xFFFF_FFFF
    return value ^ value >> 16
