"""MSI-X: masks, pending bits, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.bus.msix import Msix, MsixBar, bar_layout
from runner.bus.pci_config import ConfigSpace
from runner.wire import pci
from tests.unit.virtio_driver import Messages

VECTORS = 3


def made() -> tuple[Msix, Messages]:
    sink = Messages()
    return Msix(VECTORS, sink), sink


def program(msix: Msix, vector: int, *, masked: bool = False) -> None:
    msix.write_table(16 * vector, 4, 0xFEE01000)
    msix.write_table(16 * vector + 4, 4, 0)
    msix.write_table(16 * vector + 8, 4, 0x40 + vector)
    msix.write_table(16 * vector + 12, 4, int(masked))


def test_an_enabled_unmasked_vector_fires_with_its_message() -> None:
    """The sink knows the message before the vector can fire."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE)
    program(msix, 1)
    assert sink.configured == [(1, 0xFEE01000, 0x41, False)]
    msix.fire(1)
    assert sink.fired == [1]


def test_a_masked_vector_is_pending_until_it_is_unmasked() -> None:
    """PCI 3.0 §6.8.3.4: the pending bit is set, and unmasking sends the message once."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE)
    program(msix, 2, masked=True)
    msix.fire(2)
    msix.fire(2)
    assert sink.fired == []
    assert msix.read_pba(0, 8) == 1 << 2
    msix.write_table(16 * 2 + 12, 4, 0)
    assert sink.fired == [2]
    assert msix.read_pba(0, 4) == 0


def test_the_function_mask_holds_every_vector_back() -> None:
    """Message control's bit 14 masks all; clearing it sends what is owed."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK)
    program(msix, 0)
    program(msix, 1)
    msix.fire(0)
    msix.fire(1)
    assert sink.fired == []
    msix.control(pci.MSIX_ENABLE)
    assert sink.fired == [0, 1]


def test_the_sink_hears_of_masks() -> None:
    """A vector in use that is masked is told as masked, so that an irqfd can be taken off."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE)
    program(msix, 0)
    msix.write_table(12, 4, 1)
    assert sink.configured[-1] == (0, 0xFEE01000, 0x40, True)
    msix.control(0)
    assert sink.configured[-1] == (0, 0xFEE01000, 0x40, True)


def test_a_message_changed_under_a_mask_is_told_on_unmasking() -> None:
    """A half-written message never reaches the sink."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE)
    program(msix, 0)
    msix.write_table(12, 4, 1)
    told = len(sink.configured)
    msix.write_table(8, 4, 0x99)
    assert len(sink.configured) == told
    msix.write_table(12, 4, 0)
    assert sink.configured[told:] == [(0, 0xFEE01000, 0x99, False)]


def test_disabled_msix_sends_nothing() -> None:
    """Without the enable bit nothing fires and nothing is pending."""
    msix, sink = made()
    program(msix, 0)
    msix.fire(0)
    assert sink.fired == []
    assert msix.read_pba(0, 8) == 0


@pytest.mark.parametrize("vector", [-1, VECTORS, 0xFFFF])
def test_a_vector_that_is_not_there_is_nothing(vector: int) -> None:
    """Device-bugs 10: out of bounds neither fires nor is pending."""
    msix, sink = made()
    msix.control(pci.MSIX_ENABLE)
    msix.fire(vector)
    assert sink.fired == []
    assert msix.read_pba(0, 8) == 0


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (0, 2), (2, 4), (4, 8), (16 * VECTORS, 4), (16 * VECTORS - 4, 8), (-4, 4), (0, 16)],
)
def test_row_10_odd_and_outside_accesses_do_nothing(offset: int, size: int) -> None:
    """Device-bugs 10: only aligned 4- and 8-byte accesses inside the table."""
    msix, _ = made()
    before = bytes(msix.table)
    msix.write_table(offset, size, (1 << 8 * size) - 1)
    assert bytes(msix.table) == before
    assert len(msix.table) == 16 * VECTORS
    assert msix.read_table(offset, size) == 0
    assert msix.read_pba(offset or 8, size) == 0


def test_eight_byte_accesses_reach_two_registers() -> None:
    """The address may be written as one quadword."""
    msix, _ = made()
    msix.write_table(16, 8, 0x1_FEE00000)
    assert msix.read_table(16, 8) == 0x1_FEE00000
    assert msix.read_table(20, 4) == 1


def test_only_the_mask_bit_of_vector_control_is_there() -> None:
    """Reserved bits of vector control read as zero (§6.8.2.9)."""
    msix, _ = made()
    msix.write_table(12, 4, 0xFFFFFFFF)
    assert msix.read_table(12, 4) == 1
    msix.write_table(8, 8, 0xFFFFFFFE_00000000)
    assert msix.read_table(12, 4) == 0


def test_reset_masks_and_forgets() -> None:
    """As after power-on: entries zero and masked, nothing pending, disabled."""
    msix, _ = made()
    msix.control(pci.MSIX_ENABLE)
    program(msix, 0, masked=True)
    msix.fire(0)
    msix.reset()
    assert not msix.enabled
    assert msix.read_pba(0, 8) == 0
    assert msix.read_table(0, 8) == 0
    assert msix.read_table(12, 4) == 1


def test_the_capability_drives_enable_and_mask() -> None:
    """Writes to message control reach the table's owner; its size field is read-only."""
    msix, sink = made()
    config = ConfigSpace()
    msix.add_capability(config, 2, 0, 0x800)
    at = config.get(pci.CAPABILITIES, 1)
    assert config.read(at, 1) == pci.CAP_MSIX
    assert config.read(at + 2, 2) == VECTORS - 1
    assert config.read(at + 4, 4) == 2
    assert config.read(at + 8, 4) == 0x802
    config.write(at + 2, 2, 0xFFFF)
    assert config.read(at + 2, 2) == 0xC000 | VECTORS - 1
    assert msix.enabled
    program(msix, 0)
    msix.fire(0)
    assert sink.fired == []
    config.write(at + 3, 1, 0x80)
    assert sink.fired == [0]


def test_table_and_pba_share_a_bar_without_touching() -> None:
    """The BAR's lower half is the table, its upper half the PBA; writes to the PBA are lost."""
    msix = Msix(129, Messages())
    size, pba = bar_layout(129)
    assert size & size - 1 == 0
    assert pba >= 129 * 16
    bar = MsixBar(msix, pba)
    msix.control(pci.MSIX_ENABLE)
    msix.fire(128)
    bar.write(pba + 16, 8, 0)
    assert bar.read(pba + 16, 8) == 1
    assert bar.read(pba + 24, 8) == 0
    bar.write(16, 4, 0xFEE00000)
    assert bar.read(16, 4) == 0xFEE00000


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "fire", "control"]),
            st.integers(0, 16 * VECTORS),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, 2**64 - 1),
        ),
        max_size=40,
    )
)
def test_whatever_is_written_masks_hold(steps: list[tuple[str, int, int, int]]) -> None:
    """A message is sent only while its vector is unmasked and configured with that message."""
    sink = Messages()
    msix = Msix(VECTORS, sink)

    def fire(vector: int) -> None:
        assert not msix.masked(vector)
        last = [told for told in sink.configured if told[0] == vector][-1]
        assert last[1] == msix.read_table(16 * vector, 8)
        assert last[2] == msix.read_table(16 * vector + 8, 4)
        assert not last[3]

    sink.fire = fire  # type: ignore[method-assign]
    for what, offset, size, value in steps:
        if what == "write":
            msix.write_table(offset, size, value & (1 << 8 * size) - 1)
        elif what == "fire":
            msix.fire(offset % (VECTORS + 1))
        else:
            msix.control(value & 0xFFFF)
