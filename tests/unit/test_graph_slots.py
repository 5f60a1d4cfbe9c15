"""Slots: fixed ones are kept, the others stay where they are when something is added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import DefinitionError
from runner.graph import slots
from runner.graph.slots import Place, Wish, assign

names = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
sections = st.sampled_from(["disks", "net", "devices", "fs", "rng", "console", "vsock"])
machines = st.lists(st.tuples(sections, names), max_size=14, unique=True)


def _wishes(machine: list[tuple[str, str]]) -> tuple[Wish, ...]:
    return tuple(Wish(one, one if one in slots.SINGLE else name, None) for one, name in machine)


def _unique(machine: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """One of each single section, as the schema has it."""
    seen: set[str] = set()
    return [one for one in machine if one[0] not in slots.SINGLE or not (one[0] in seen or seen.add(one[0]))]


@given(machines)
def test_every_device_gets_a_place_of_its_own(machine: list[tuple[str, str]]) -> None:
    """All on the root bus, all different, none at the host bridge's, and twice the same."""
    wishes = _wishes(_unique(machine))
    places, _ = assign(wishes)
    assert len(set(places)) == len(wishes)
    assert all(place.bus == 0 and 1 <= place.device <= 31 and place.function == 0 for place in places)
    assert assign(wishes)[0] == places


@given(machines, st.tuples(sections, names))
def test_a_device_added_last_moves_nothing(machine: list[tuple[str, str]], new: tuple[str, str]) -> None:
    """Who was there keeps its place."""
    machine = _unique(machine)
    if len(_unique([*machine, new])) == len(machine) or new in machine:
        return
    assert assign(_wishes([*machine, new]))[0][:-1] == assign(_wishes(machine))[0]


@given(machines, st.tuples(sections, names), st.integers(0, 14))
def test_a_device_added_anywhere_moves_no_other_section(
    machine: list[tuple[str, str]], new: tuple[str, str], where: int
) -> None:
    """As long as every section fits in its range, only its own section can be touched; and in a section
    without an order nobody moves unless two have the same home."""
    machine = _unique(machine)
    longer = _unique([*machine[:where], new, *machine[where:]])
    room = {"disks": 8, "net": 5, "devices": 7, "fs": 5}
    crowded = any(sum(1 for one, _ in longer if one == section) > most for section, most in room.items())
    if len(longer) == len(machine) or new in machine or crowded:
        return
    before = dict(zip(machine, assign(_wishes(machine))[0], strict=True))
    after = dict(zip(longer, assign(_wishes(longer))[0], strict=True))
    homes = [slots.home(section, name) for section, name in longer if section == new[0]]
    for device in machine:
        if device[0] != new[0] or (device[0] not in slots.ORDERED and len(homes) == len(set(homes))):
            assert before[device] == after[device]


@given(st.lists(names, max_size=16, unique=True), st.sampled_from(slots.ORDERED))
def test_disks_and_interfaces_appear_in_the_order_of_the_file(machine: list[str], section: str) -> None:
    """The guest's vda is the file's first disk, also when there are more than the range holds."""
    places, notes = assign(tuple(Wish(section, name, None) for name in machine))
    assert list(places) == sorted(places)
    assert notes == ()


def test_who_lost_its_home_is_told_how_to_keep_its_place() -> None:
    """The note names both devices and the line to write."""
    first = Wish("devices", "reader", None)
    twin = next(
        Wish("devices", f"d{n}", None)
        for n in range(99)
        if slots.home("devices", f"d{n}") == slots.home("devices", "reader")
    )
    places, notes = assign((first, twin))
    assert places[0].device == slots.home("devices", "reader")
    fixed = f'slot = "{places[1]}" fixes it there'
    assert notes == (f"`{twin.name}` is at {places[1]}, since `reader` has {places[0]}; {fixed}",)


def test_homes_stay_where_they_are() -> None:
    """Slots are written into guests' configuration, so some are held still here."""
    homes = {name: slots.home("devices", name) for name in ("reader", "nvme", "card")}
    assert homes == {"reader": 0x18, "nvme": 0x1A, "card": 0x1D}
    assert [slots.home(section, section) for section in slots.SINGLE] == [1, 2, 3, 4, 5]
    assert [slots.home("net", "lan"), slots.home("disks", "root")] == [0x0B, 0x10]


def test_fixed_slot_wins_wherever_it_stands_in_the_file() -> None:
    """The one that can move makes room for the one that cannot."""
    places, _ = assign((Wish("rng", "rng", None), Wish("disks", "root", "00:01.0")))
    assert places[1] == Place(0, 1, 0)
    assert places[0] != Place(0, 1, 0)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            (Wish("disks", "a", "00:05.0"), Wish("disks", "b", "00:05.0")),
            "slot 00:05.0 of `b` is taken by `a`",
        ),
        ((Wish("disks", "a", "00:00.0"),), "slot 00:00.0 of `a` is taken by the chipset"),
        ((Wish("disks", "a", "01:00.0"),), "slot 01:00.0 of `a` is not on the root bus"),
        ((Wish("disks", "a", "00:05.1"),), "`a` is at 00:05.1, and nothing is at 00:05.0"),
        ((Wish("devices", "a", None, bus="p"),), "`a` sits below `p`, which is no root port"),
        (
            (Wish("devices", "p", None, bridge=True), Wish("devices", "a", "02:00.0", bus="p")),
            "slot 02:00.0 of `a` is not below `p`",
        ),
        (
            (
                Wish("devices", "p", None, bridge=True),
                Wish("devices", "a", None, bus="p"),
                Wish("devices", "b", None, bus="p"),
            ),
            "`b` and `a` both sit below `p`, at 01:00.0",
        ),
    ],
)
def test_impossible_slots_are_refused_by_name(wishes: tuple[Wish, ...], message: str) -> None:
    """Each refusal names the slot and both parties."""
    with pytest.raises(DefinitionError) as refused:
        assign(wishes)
    assert message in str(refused.value)


def test_functions_share_a_device_number() -> None:
    """Functions 1 to 7 are fixed by hand beside a function 0."""
    places, _ = assign((Wish("disks", "a", "00:05.0"), Wish("disks", "b", "00:05.7")))
    assert [str(place) for place in places] == ["00:05.0", "00:05.7"]


def test_thirty_one_devices_fit_and_the_next_is_refused() -> None:
    """The root bus has 32 device numbers, one of them the host bridge's."""
    wishes = tuple(Wish("disks", f"d{number}", None) for number in range(31))
    places, _ = assign(wishes)
    assert sorted(place.device for place in places) == list(range(1, 32))
    with pytest.raises(DefinitionError, match="no slot is left on the PCI root bus for `d31`"):
        assign((*wishes, Wish("disks", "d31", None)))


def test_root_ports_number_their_buses_by_slot() -> None:
    """Bus numbers follow the ports' slots, not their order in the file."""
    wishes = (
        Wish("devices", "b", "00:1a.0", bridge=True),
        Wish("devices", "a", "00:19.0", bridge=True),
        Wish("devices", "x", None, bus="b"),
        Wish("devices", "y", None, bus="a"),
    )
    assert [str(place) for place in assign(wishes)[0][2:]] == ["02:00.0", "01:00.0"]
