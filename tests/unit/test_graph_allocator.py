"""The allocator: nothing overlaps, everything is aligned, and every refusal names both parties in hex."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import DefinitionError
from runner.graph import x86
from runner.graph.allocator import Lines, Space
from runner.graph.bars import place_bars
from runner.graph.model import BarClaim, Claim, Node, PciClaim

intervals = st.tuples(st.integers(0, 200), st.integers(1, 60))


@given(st.lists(st.tuples(st.booleans(), intervals, st.sampled_from([1, 2, 4, 8, 16]))))
def test_space_never_gives_an_address_twice(wishes: list[tuple[bool, tuple[int, int], int]]) -> None:
    """Against a set of addresses as the oracle: what is granted is free, aligned and inside, what is refused
    has no room, and a refusal changes nothing."""
    space, owned = Space("the space", 10, 200), set[int]()
    for fixed, (start, size), align in wishes:
        before = space.taken
        try:
            at = start if fixed else space.place(size, align, "it")
            if fixed:
                space.take(start, size, "it")
        except DefinitionError:
            assert space.taken == before
            starts = [start] if fixed else range(-(-10 // align) * align, 200, align)
            for candidate in starts:
                wanted = set(range(candidate, candidate + size))
                assert wanted & owned or not wanted <= set(range(10, 200))
            continue
        granted = set(range(at, at + size))
        assert not granted & owned
        assert granted <= set(range(10, 200))
        assert fixed or at % align == 0
        owned |= granted
    assert sum(taken.end - taken.start for taken in space.taken) == len(owned)
    assert list(space.taken) == sorted(space.taken)


def test_overlap_names_both_parties_in_hex() -> None:
    """The message can be acted upon without a debugger."""
    space = Space("the 32-bit PCI window", 0xC000_0000, 0xE000_0000)
    space.take(0xC000_0000, 0x2000, "BAR 0 of `root`")
    with pytest.raises(DefinitionError) as refused:
        space.take(0xC000_1000, 0x1000, "BAR 0 of `reader`")
    assert str(refused.value) == (
        "BAR 0 of `reader` (0xc0001000–0xc0001fff) overlaps BAR 0 of `root` (0xc0000000–0xc0001fff)"
    )


def test_outside_and_full_name_the_space() -> None:
    """What does not fit says how large the room is, and what fills it."""
    space = Space("the ports", 0x700, 0x710)
    outside = r"ports of `a` \(0x70c–0x713\) lies outside the ports \(0x700–0x70f\)"
    with pytest.raises(DefinitionError, match=outside):
        space.take(0x70C, 8, "ports of `a`")
    space.take(0x704, 8, "ports of `b`")
    full = r"needs 0x8 bytes, aligned, .* it holds ports of `b` \(0x704–0x70b\)"
    with pytest.raises(DefinitionError, match=full):
        space.place(8, 8, "ports of `a`")


def test_lines_are_shared_only_when_level_triggered() -> None:
    """An edge on a shared line would be lost, so both parties are told."""
    lines = Lines((5, 10))
    lines.take(4, "edge", "`serial`")
    refused = r"`other` wants interrupt line 4 \(level\), which `serial` has \(edge\)"
    with pytest.raises(DefinitionError, match=refused):
        lines.take(4, "level", "`other`")
    lines.take(17, "level", "`a`")
    lines.take(17, "level", "`b`")
    assert [lines.place("edge", "`c`"), lines.place("level", "`d`")] == [5, 10]
    with pytest.raises(DefinitionError, match="none of 5, 10 is free"):
        lines.place("edge", "`e`")


bars = st.lists(
    st.tuples(st.sampled_from(["io", "mem32", "mem64"]), st.integers(4, 24), st.booleans()), max_size=6
)
functions = st.lists(st.tuples(bars, st.booleans()), max_size=8)


def _node(index: int, given_bars: list[tuple[str, int, bool]], bus: str, bridge: bool = False) -> Node:
    claims = tuple(
        BarClaim(number, 1 << (min(bits, 8) if kind == "io" else bits), kind, prefetchable)
        for number, (kind, bits, prefetchable) in enumerate(given_bars)
    )
    pci = PciClaim(1, 1, 0, bars=claims, bus=bus, bridge=bridge)
    return Node("x", "port" if bridge else f"d{index}", "devices", {}, Claim(pci=pci))


@given(functions, st.integers(0, 1 << 40))
def test_bars_are_naturally_aligned_and_inside_their_windows(
    wanted: list[tuple[list[tuple[str, int, bool]], bool]], above: int
) -> None:
    """No two BARs share a page, each sits in the window of its kind, and what is below a root port sits in
    what the port forwards, in steps that its registers can say."""
    nodes = [_node(0, [], "", bridge=True)]
    nodes += [_node(index, each, "port" if below else "") for index, (each, below) in enumerate(wanted, 1)]
    placed, window = place_bars(nodes, max(above, x86.ABOVE_4G), 48)
    low, high = x86.PCI_WINDOW_32
    port = placed[0].claim.pci
    assert port is not None
    forwards = {one.kind: (one.start, one.start + one.size) for one in port.windows}
    windows = {
        "io": x86.PORT_WINDOW,
        "mem32": (low, high),
        "mem64": (window.start, window.start + window.size),
    }
    spans: dict[str, list[tuple[int, int]]] = {"io": [], "memory": []}
    for node in placed[1:]:
        assert node.claim.pci is not None
        for bar in node.claim.pci.bars:
            assert bar.at is not None
            assert bar.at % bar.size == 0
            narrow = node.claim.pci.bus and bar.kind == "mem64" and not bar.prefetchable
            kind = "mem32" if narrow else bar.kind
            start, end = (forwards if node.claim.pci.bus else windows)[kind]
            assert start <= bar.at < bar.at + bar.size <= end
            size = bar.size if kind == "io" else max(bar.size, 4096)
            spans["io" if kind == "io" else "memory"].append((bar.at, bar.at + size))
    for some in spans.values():
        some.sort()
        assert all(first[1] <= second[0] for first, second in pairwise(some))
    for kind, (start, end) in forwards.items():
        step = 0x1000 if kind == "io" else 0x10_0000
        assert start % step == end % step == 0
        assert windows[kind][0] <= start < end <= windows[kind][1]


def test_a_full_32_bit_window_says_what_fills_it() -> None:
    """512 MiB hold two BARs of 256 MiB, the third is refused by name."""
    nodes = [_node(index, [("mem32", 28, False)], "") for index in range(3)]
    full = r"BAR 0 of `d2` needs 0x10000000 bytes.*BAR 0 of `d0` \(0xc0000000–"
    with pytest.raises(DefinitionError, match=full):
        place_bars(nodes, x86.ABOVE_4G, 39)


def test_64_bit_bars_beyond_the_address_width_are_refused() -> None:
    """A processor with 36 address bits cannot reach a BAR of 64 GiB above RAM."""
    nodes = [_node(0, [("mem64", 36, True)], "")]
    with pytest.raises(DefinitionError, match="the end of what 36 address bits reach"):
        place_bars(nodes, x86.ABOVE_4G, 36)
    placed, _ = place_bars(nodes, x86.ABOVE_4G, 39)
    assert placed[0].claim.pci is not None
    assert placed[0].claim.pci.bars[0].at == 1 << 36


def test_a_large_bar_below_a_port_is_aligned_as_anywhere() -> None:
    """The port's part starts where its largest BAR can, also when something small lies before it."""
    nodes = [_node(0, [("mem32", 12, False)], ""), _node(1, [], "", bridge=True)]
    placed, _ = place_bars([*nodes, _node(2, [("mem32", 24, False)], "port")], x86.ABOVE_4G, 39)
    below = placed[2].claim.pci
    assert below is not None
    assert below.bars[0].at == 0xC100_0000
