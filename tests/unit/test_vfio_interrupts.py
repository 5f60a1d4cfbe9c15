"""INTx, MSI and MSI-X of a passed-through function (reference/vfio.md, engine 7 and 8)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.bus.passed_interrupts import Part
from runner.graph.model import BarClaim
from runner.wire import pci
from tests.unit.passed_host import FakeHost, Machine, claim_of, config_space, msi, msix

BAR = BarClaim(0, 0x4000, "mem32", at=0xC0000000)
TABLE, PBA = 0x2000, 0x3000
ADDRESS, DATA = 0xFEE01000, 0x4041
ENABLE, MASK = pci.MSIX_ENABLE, pci.MSIX_FUNCTION_MASK
CONTROL = 0x42  # of the first capability


def with_msix(vectors: int = 4) -> Machine:
    host = FakeHost(config_space(msix(vectors, TABLE, PBA)), {0: bytearray(b"\xa5" * BAR.size)})
    machine = Machine(host, claim_of(BAR, intx_pin=1, msix_vectors=vectors))
    host.taken()
    return machine


def with_msi(multiple: int = 0, *, wide: bool = True, masks: bool = False) -> Machine:
    host = FakeHost(config_space(msi(multiple, wide=wide, masks=masks)))
    machine = Machine(host, claim_of(intx_pin=1, msi_vectors=1 << multiple))
    host.taken()
    return machine


def set_vector(machine: Machine, vector: int, *, masked: bool = False) -> None:
    at = TABLE + 16 * vector
    machine.write_bar(0, at, 4, ADDRESS)
    machine.write_bar(0, at + 4, 4, 0)
    machine.write_bar(0, at + 8, 4, DATA + vector)
    machine.write_bar(0, at + 12, 4, int(masked))


# ---- the wire


def test_wire_is_on_from_the_start() -> None:
    machine = Machine(FakeHost(config_space()), claim_of(intx_pin=1))
    assert machine.host.taken("wire") == [("wire", True)]


def test_function_without_a_pin_has_no_wire() -> None:
    machine = Machine(FakeHost(config_space()), claim_of())
    assert machine.host.taken("wire") == []


def test_wire_goes_before_messages_come_and_comes_back_after_they_have_gone() -> None:
    """INTx is off while MSI-X is on, and VFIO is never asked for both at once."""
    machine = with_msix()
    machine.write(CONTROL, 2, ENABLE)
    assert machine.host.taken("wire", "msix") == [("wire", False), ("msix", 4)]
    machine.write(CONTROL, 2, 0)
    assert machine.host.taken("wire", "msix") == [("msix", 0), ("wire", True)]


def test_wire_goes_and_comes_with_msi() -> None:
    machine = with_msi()
    machine.write(CONTROL, 2, 1)
    assert machine.host.taken("wire", "msi") == [("wire", False), ("msi", 1)]
    machine.write(CONTROL, 2, 0)
    assert machine.host.taken("wire", "msi") == [("msi", 0), ("wire", True)]


def test_host_without_vectors_is_reported_and_the_guest_goes_on() -> None:
    """A refusal of the host is a line in the log and not the end of the guest."""
    machine = with_msix()
    machine.host.refuses = lambda what: what == "msix"
    machine.write(CONTROL, 2, ENABLE)
    assert machine.reports == ["`reader`: no vectors"]
    machine.write(CONTROL, 2, 0)
    assert machine.host.taken("wire") == [("wire", False), ("wire", True)]


def test_wire_that_does_not_come_back_is_reported() -> None:
    machine = with_msix()
    machine.write(CONTROL, 2, ENABLE)
    machine.host.refuses = lambda what: what == "wire"
    machine.write(CONTROL, 2, 0)
    assert machine.reports == ["`reader`: no wire"]


# ---- MSI-X


def test_capability_shows_table_and_size_and_keeps_them() -> None:
    """Table and PBA are where the function has them; only enable and mask can be written."""
    machine = with_msix(5)
    machine.write(0x44, 4, 0xFFFFFFFF)
    machine.write(0x48, 4, 0xFFFFFFFF)
    machine.write(CONTROL, 2, 0xFFFF)
    assert (machine.read(0x44, 4), machine.read(0x48, 4)) == (TABLE, PBA)
    assert machine.read(CONTROL, 2) == ENABLE | MASK | 4
    assert machine.host.taken("config") == []


def test_vectors_are_at_vfio_before_they_may_fire() -> None:
    """A table that was filled before: SET_IRQS first, the messages after it."""
    machine = with_msix()
    set_vector(machine, 1)
    machine.write(CONTROL, 2, ENABLE)
    kinds = [entry[0] for entry in machine.host.taken()]
    assert kinds.index("msix") < kinds.index("message")
    assert machine.sink.live == {1: (ADDRESS, DATA + 1)}


def test_message_is_told_when_its_mask_falls() -> None:
    """A masked vector's message reaches nobody, and a half-written one never does."""
    machine = with_msix()
    machine.write(CONTROL, 2, ENABLE)
    set_vector(machine, 0, masked=True)
    assert machine.sink.live == {}
    machine.write_bar(0, TABLE + 12, 4, 0)
    assert machine.sink.live == {0: (ADDRESS, DATA)}
    machine.write_bar(0, TABLE + 12, 4, 1)
    assert machine.sink.live == {}


def test_function_mask_is_honoured() -> None:
    """Linux enables with all masked, fills the table and then lifts the mask."""
    machine = with_msix()
    machine.write(CONTROL, 2, ENABLE | MASK)
    for vector in range(3):
        set_vector(machine, vector)
    assert machine.sink.live == {}
    machine.write(CONTROL, 2, ENABLE)
    assert sorted(machine.sink.live) == [0, 1, 2]
    machine.write(CONTROL, 2, ENABLE | MASK)
    assert machine.sink.live == {}


def test_what_a_masked_vector_owes_is_pending() -> None:
    """The PBA shows what the function has signalled meanwhile, and nothing once it is unmasked."""
    machine = with_msix(70)
    machine.write(CONTROL, 2, ENABLE)
    for vector in (1, 65):
        set_vector(machine, vector, masked=True)
        machine.sink.signal(vector)
    assert machine.read_bar(0, PBA, 8) == 2
    assert machine.read_bar(0, PBA + 8, 8) == 2
    assert machine.read_bar(0, PBA + 8, 4) == 2
    assert machine.read_bar(0, PBA + 4, 4) == 0
    machine.write_bar(0, TABLE + 16 + 12, 4, 0)
    assert machine.read_bar(0, PBA, 8) == 0


def test_disabling_forgets_what_was_owed() -> None:
    """A signal from before the vectors went off is no interrupt of the next driver."""
    machine = with_msix()
    machine.write(CONTROL, 2, ENABLE)
    set_vector(machine, 0, masked=True)
    machine.sink.signal(0)
    machine.write(CONTROL, 2, 0)
    assert not machine.sink.owed


def test_real_table_is_never_touched() -> None:
    """Every access that lies in table or PBA, or touches them from outside, stays here (device-bugs 10)."""
    machine = with_msix()
    for start, length in ((TABLE, 64), (PBA, 8)):
        for at in range(start - 8, start + length + 8):
            for size in (1, 2, 4, 8):
                inside = at < start + length and start < at + size
                machine.host.taken()
                machine.write_bar(0, at, size, 0)
                assert bool(machine.host.taken("bar")) is not inside, f"{size} bytes at {at:#x}"
                if inside:
                    ours = machine.read_bar(0, at, size)
                    assert ours & 0xFFFFFFFE == 0, f"{size} bytes at {at:#x}: {ours:#x}"
    assert machine.host.memory[0][TABLE : TABLE + 64] == b"\xa5" * 64


def test_table_takes_aligned_words_only() -> None:
    """4 and 8 bytes, aligned, inside; anything else reads as zero and writes nothing."""
    machine = with_msix()
    machine.write_bar(0, TABLE, 8, 0x1122334455667788)
    assert machine.read_bar(0, TABLE, 8) == 0x1122334455667788
    for at, size in ((TABLE, 1), (TABLE + 2, 4), (TABLE + 4, 8), (TABLE + 60, 8), (TABLE - 4, 8)):
        machine.write_bar(0, at, size, (1 << 8 * size) - 1)
        assert machine.read_bar(0, at, size) == 0
    assert machine.read_bar(0, TABLE, 8) == 0x1122334455667788


def test_rest_of_the_bar_is_the_functions() -> None:
    machine = with_msix()
    assert machine.read_bar(0, 0, 4) == 0xA5A5A5A5
    machine.write_bar(0, TABLE + 64, 4, 1)
    assert machine.host.taken("bar") == [("bar", 0, TABLE + 64, 4, 1)]


def test_more_vectors_than_were_planned_are_not_offered() -> None:
    """The function says 8, the plan has messages for 4: the guest sees 4."""
    host = FakeHost(config_space(msix(8, TABLE, PBA)), {0: bytearray(BAR.size)})
    machine = Machine(host, claim_of(BAR, msix_vectors=4))
    assert machine.read(CONTROL, 2) == 3
    machine.write(CONTROL, 2, ENABLE)
    set_vector(machine, 6)
    assert machine.sink.live == {}


def test_capability_that_runs_out_of_the_space_is_not_taken() -> None:
    space = config_space(msix(4, TABLE, PBA))
    space[pci.CAPABILITIES], space[0xF8], space[0xF9] = 0xF8, pci.CAP_MSIX, 0
    machine = Machine(FakeHost(space), claim_of(BAR, msix_vectors=4))
    assert machine.passed.msix is None
    assert len(machine.passed.config.data) == 256


@given(st.integers(0, 0x4000), st.sampled_from((1, 2, 4, 8)), st.integers(0, 0x3FF0), st.integers(1, 64))
def test_meets_is_the_intersection(offset: int, size: int, start: int, length: int) -> None:
    expected = bool(set(range(offset, offset + size)) & set(range(start, start + length)))
    assert Part(0, start, length).meets(0, offset, size) is expected
    assert not Part(0, start, length).meets(1, offset, size)


# ---- MSI


def test_msi_of_64_bits() -> None:
    machine = with_msi()
    machine.write(0x44, 4, ADDRESS)
    machine.write(0x48, 4, 1)
    machine.write(0x4C, 2, DATA)
    machine.write(CONTROL, 2, 1)
    assert machine.sink.live == {0: (1 << 32 | ADDRESS, DATA)}


def test_msi_of_32_bits() -> None:
    machine = with_msi(wide=False)
    machine.write(0x44, 4, ADDRESS | 3)
    machine.write(0x48, 2, DATA)
    machine.write(CONTROL, 2, 1)
    assert machine.sink.live == {0: (ADDRESS, DATA)}


def test_message_is_told_before_the_function_may_send_it() -> None:
    machine = with_msi()
    machine.write(0x44, 4, ADDRESS)
    machine.write(CONTROL, 2, 1)
    assert [entry[0] for entry in machine.host.taken("message", "msi")] == ["message", "msi"]


def test_message_that_moves_is_told() -> None:
    """irqbalance rewrites address and data while MSI is on."""
    machine = with_msi()
    machine.write(CONTROL, 2, 1)
    machine.host.taken()
    machine.write(0x44, 4, ADDRESS + 0x1000)
    machine.write(0x4C, 2, 7)
    assert machine.sink.live == {0: (ADDRESS + 0x1000, 7)}
    assert machine.host.taken("msi", "wire") == []


def test_multiple_messages() -> None:
    """Vector n's data is the base with its low bits replaced; at most as many as are offered."""
    machine = with_msi(2)
    machine.write(0x44, 4, ADDRESS)
    machine.write(0x4C, 2, 0x43)
    machine.write(CONTROL, 2, 1 | 1 << 4)
    assert machine.sink.live == {0: (ADDRESS, 0x42), 1: (ADDRESS, 0x43)}
    machine.write(CONTROL, 2, 1 | 7 << 4)
    assert sorted(data for _, data in machine.sink.live.values()) == [0x40, 0x41, 0x42, 0x43]
    assert machine.host.taken("msi") == [("msi", 2), ("msi", 4)]
    machine.write(CONTROL, 2, 1)
    assert list(machine.sink.live) == [0]


def test_vectors_masks_and_pending_bits() -> None:
    """Masks of single vectors are honoured, and what they owe can be read."""
    machine = with_msi(1, masks=True)
    machine.write(0x44, 4, ADDRESS)
    machine.write(CONTROL, 2, 1 | 1 << 4)
    machine.write(0x50, 4, 2)
    assert list(machine.sink.live) == [0]
    machine.sink.signal(1)
    assert machine.read(0x54, 4) == 2
    machine.write(0x54, 4, 0)
    assert machine.read(0x54, 4) == 2
    machine.write(0x50, 4, 0)
    assert machine.read(0x54, 4) == 0
    assert sorted(machine.sink.live) == [0, 1]


def test_vectors_are_masked_when_msi_goes() -> None:
    """What shares the vectors after it, MSI-X, finds no stale message."""
    machine = with_msi(1)
    machine.write(CONTROL, 2, 1 | 1 << 4)
    machine.write(CONTROL, 2, 0)
    assert machine.sink.live == {}


def test_only_enable_and_count_can_be_written() -> None:
    """What the function can is read-only, extended data is not offered."""
    machine = with_msi(2, masks=True)
    machine.host.space[CONTROL + 1] |= 6
    before = machine.read(CONTROL, 2)
    machine.write(CONTROL, 2, 0xFFFF)
    assert machine.read(CONTROL, 2) == before | 0x71
    assert before & 0x600 == 0
    assert machine.host.taken("config") == []


writes = st.lists(
    st.tuples(
        st.integers(TABLE - 16, PBA + 32), st.sampled_from((1, 2, 4, 8)), st.integers(0, (1 << 64) - 1)
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(writes, st.lists(st.integers(0, 0xFFFF), max_size=6))
def test_any_writes_to_the_table(guest: list[tuple[int, int, int]], controls: list[int]) -> None:
    """Whatever a guest writes: the real table and PBA stay as they are, live vectors exist and are
    enabled, and their messages are those in the table.
    """
    machine = with_msix()
    for number, (at, size, value) in enumerate(guest):
        machine.write_bar(0, at, size, value & (1 << 8 * size) - 1)
        machine.read_bar(0, at, size)
        if number < len(controls):
            machine.write(CONTROL, 2, controls[number])
    memory = machine.host.memory[0]
    assert memory[TABLE : TABLE + 64] == b"\xa5" * 64
    assert memory[PBA : PBA + 8] == b"\xa5" * 8
    enabled = machine.read(CONTROL, 2) & (ENABLE | MASK) == ENABLE
    for vector in range(4):
        at = TABLE + 16 * vector
        live = enabled and not machine.read_bar(0, at + 12, 4) & 1
        message = (machine.read_bar(0, at, 8), machine.read_bar(0, at + 8, 4))
        assert machine.sink.live.get(vector) == (message if live else None)
