"""The virtqueue in C and the one in Python are one: the same bytes give the same chains, or an end."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus.virtqueue import QueueSetup, RingError, SplitQueue
from runner.host.memory import Ram
from runner.host.native._native import ffi, lib
from runner.wire import virtio

SIZE, RAM, HIGH = 8, 1 << 20, 1 << 32
DESCRIPTORS, DRIVER, DEVICE, INNER = 0x1000, 0x2000, 0x3000, 0x6000
ADDRESSES = (DESCRIPTORS, DRIVER, DEVICE)


class Both:
    """One ring in real memory, and its two readers."""

    def __init__(self, *, indirect: bool = True) -> None:
        self.ram: Any = Ram(((0, RAM), (HIGH, RAM)))
        self._rows = ffi.new(
            "struct vmrun_ram[]",
            [(r.start, r.size, ffi.cast("uint8_t *", r.pointer)) for r in self.ram.regions],
        )
        self.ring = ffi.new("struct vmrun_ring *")
        self.ring.ram, self.ring.regions, self.ring.size = self._rows, 2, SIZE
        self.ring.indirect = indirect
        self.chain = ffi.new("struct vmrun_chain *")
        assert lib.vmrun_ring_open(self.ring, *ADDRESSES) == 0
        features = virtio.F_VERSION_1 | (virtio.F_INDIRECT_DESC if indirect else 0)
        self.python = SplitQueue(self.ram, QueueSetup(0, SIZE, *ADDRESSES), features, int, int)

    def describe(self, table: int, rows: list[tuple[int, int, int, int]]) -> None:
        self.ram.write(table, b"".join(struct.pack("<QIHH", *row) for row in rows))

    def offer(self, heads: list[int], index: int) -> None:
        self.ram.write(DRIVER, struct.pack(f"<HH{len(heads)}H", 0, index, *heads))

    def in_c(self) -> tuple[int, list[int], list[tuple[int, int]]] | str | None:
        """A head and its buffers by host address, readable ones first; a word for an error."""
        result = lib.vmrun_ring_next(self.ring, self.chain)
        if result <= 0:
            return "refused" if result else None
        counts = [self.chain.out, getattr(self.chain, "in")]
        found = [self.chain.iov[number] for number in range(sum(counts))]
        buffers = [(int(ffi.cast("uintptr_t", each.iov_base)), each.iov_len) for each in found]
        return self.chain.head, counts, buffers

    def in_python(self) -> tuple[int, list[int], list[tuple[int, int]]] | str | None:
        try:
            chain = self.python.pop()
        except RingError:
            return "refused"
        if chain is None:
            return None
        buffers = [
            (int(ffi.cast("uintptr_t", self.ram.pointer(address, length))), length)
            for address, length, _ in chain.buffers
        ]
        self.popped = chain
        return chain.head, [len(chain.readable), len(chain.writable)], buffers

    def answer(self) -> None:
        """The chain that both have seen last."""
        lib.vmrun_ring_push(self.ring, self.chain.head, 1)
        self.python.push(self.popped, 1)

    def close(self) -> None:
        del self.python
        self.ram.close()


addresses = st.one_of(
    st.sampled_from([0, 0x8000, INNER, RAM - 8, RAM - 1, RAM, HIGH, HIGH + RAM - 8, (1 << 64) - 8]),
    st.integers(0, 2 * RAM),
    st.integers(0, 2**64 - 1),
)
descriptors = st.tuples(
    addresses,
    st.one_of(
        st.sampled_from([0, 1, 8, 16, 17, 32, 16 * SIZE, 16 * (SIZE + 1), 2**32 - 16]), st.integers(0, 64)
    ),
    st.sampled_from([0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6]),
    st.integers(0, SIZE),
)
tables = st.lists(descriptors, min_size=SIZE, max_size=SIZE)


@settings(max_examples=600, deadline=None)
@given(
    table=tables,
    inner=tables,
    heads=st.lists(st.integers(0, SIZE), min_size=SIZE, max_size=SIZE),
    index=st.one_of(st.integers(0, SIZE + 1), st.integers(0, 65535)),
    answers=st.lists(st.booleans(), min_size=SIZE, max_size=SIZE),
    indirect=st.booleans(),
)
def test_whatever_a_driver_writes_both_see_the_same(
    table: list[tuple[int, int, int, int]],
    inner: list[tuple[int, int, int, int]],
    heads: list[int],
    index: int,
    answers: list[bool],
    indirect: bool,
) -> None:
    """Device-bugs 1 to 5 and 8: a check that one of them lacks shows as a chain that the other refuses."""
    both = Both(indirect=indirect)
    both.describe(DESCRIPTORS, table)
    both.describe(INNER, inner)
    both.offer(heads, index)
    for answered in answers:
        seen = both.in_c()
        assert seen == both.in_python()
        if seen is None or seen == "refused":
            break
        if answered:
            both.answer()
    both.close()


@pytest.mark.parametrize(
    ("row", "indirect"),
    [
        ((RAM - 8, 16, 4, 0), True), ((RAM, 16, 4, 0), True), ((HIGH - 16, 32, 4, 0), True),
        (((1 << 64) - 8, 16, 4, 0), True), ((INNER, 16, 5, 1), True), ((INNER, 16, 4, 0), False),
        ((INNER, 0, 4, 0), True), ((INNER, 17, 4, 0), True), ((INNER, 16 * (SIZE + 1), 4, 0), True),
        ((DESCRIPTORS, 16, 4, 0), True),
    ],
)  # fmt: skip
def test_row_2_an_indirect_table_is_whole_in_memory_bounded_agreed_on_and_the_end(
    row: tuple[int, int, int, int], indirect: bool
) -> None:
    """Device-bugs 2: outside RAM, with a next, not negotiated, of no, odd or too great length, in itself."""
    both = Both(indirect=indirect)
    both.describe(DESCRIPTORS, [row, (0x8000, 1, 0, 0)])
    both.describe(INNER, [(0x8000, 1, 0, 0)] * (SIZE + 1))
    both.offer([0], 1)
    assert both.in_c() == "refused"
    assert both.in_python() == "refused"
    both.close()


def circle(length: int) -> list[tuple[int, int, int, int]]:
    return [(0x8000, 1, virtio.DESC_NEXT, (number + 1) % length) for number in range(SIZE)]


@pytest.mark.parametrize("outer", range(SIZE))
@pytest.mark.parametrize("inside", [1, 2, 7, SIZE])
def test_row_1_descriptors_before_and_in_an_indirect_table_count_together(outer: int, inside: int) -> None:
    """Device-bugs 1: at most queue-size steps a chain, and exactly so many are allowed."""
    both = Both()
    both.describe(DESCRIPTORS, circle(SIZE))
    both.describe(DESCRIPTORS + 16 * outer, [(INNER, 16 * inside, virtio.DESC_INDIRECT, 0)])
    rows = [*circle(SIZE)[: inside - 1], (0x8000, 1, 0, 0)]
    both.describe(INNER, rows)
    both.offer([0], 1)
    seen = both.in_c()
    assert seen == both.in_python()
    assert (seen == "refused") == (outer + inside > SIZE)
    both.close()


@pytest.mark.parametrize(
    ("size", "places"),
    [
        (0, ADDRESSES), (3, ADDRESSES), (2048, ADDRESSES), (SIZE, (DESCRIPTORS + 8, DRIVER, DEVICE)),
        (SIZE, (DESCRIPTORS, DRIVER + 1, DEVICE)), (SIZE, (DESCRIPTORS, DRIVER, DEVICE + 2)),
        (SIZE, (RAM - 16 * SIZE + 16, DRIVER, DEVICE)), (SIZE, (DESCRIPTORS, RAM - 2 * SIZE - 4, DEVICE)),
        (SIZE, (DESCRIPTORS, DRIVER, RAM - 8 * SIZE - 4)), (SIZE, (DESCRIPTORS, DRIVER, (1 << 64) - 8)),
    ],
)  # fmt: skip
def test_a_ring_of_no_size_askew_or_outside_memory_is_opened_by_neither(
    size: int, places: tuple[int, int, int]
) -> None:
    """Size, alignment and place of all three areas."""
    both = Both()
    both.ring.size = size
    assert lib.vmrun_ring_open(both.ring, *places) < 0
    if size != 2048:  # Python's keeps nothing for each entry
        with pytest.raises(RingError):
            SplitQueue(both.ram, QueueSetup(0, size, *places), virtio.RING_FEATURES, int, int)
    both.close()


def test_a_ring_is_no_larger_than_what_its_owner_has_room_for() -> None:
    """A disk keeps a request for each head."""
    both = Both()
    both.ring.most = SIZE // 2
    assert lib.vmrun_ring_open(both.ring, *ADDRESSES) < 0
    both.ring.most = SIZE
    assert lib.vmrun_ring_open(both.ring, *ADDRESSES) == 0
    both.close()
