"""AML as bytes, against the specification's encodings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.wire import aml, resources


def decoded_length(data: bytes) -> tuple[int, int]:
    """(bytes of the PkgLength itself, the length it states), read by ACPI 6.4, 20.2.4."""
    follow = data[0] >> 6
    if not follow:
        return 1, data[0] & 0x3F
    return 1 + follow, data[0] & 0xF | int.from_bytes(data[1 : 1 + follow], "little") << 4


@given(st.integers(0, (1 << 28) - 5))
def test_pkg_length_counts_itself(size: int) -> None:
    """For every size the stated length is the size plus the bytes of the length."""
    encoded = aml.pkg_length(size)
    own, stated = decoded_length(encoded)
    assert own == len(encoded)
    assert stated == size + own


@pytest.mark.parametrize(
    ("size", "own"), [(62, 1), (63, 2), (4093, 2), (4094, 3), (1048572, 3), (1048573, 4)]
)
def test_pkg_length_grows_at_its_borders(size: int, own: int) -> None:
    """One byte more at 2^6, 2^12 and 2^20, its own bytes counted."""
    assert len(aml.pkg_length(size)) == own


def test_package_too_large_is_refused() -> None:
    """2^28 bytes cannot be said."""
    with pytest.raises(ValueError, match="too large"):
        aml.pkg_length((1 << 28) - 4)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("_CRS", b"_CRS"),
        ("RTC", b"RTC_"),
        ("\\", b"\\\0"),
        ("\\_SB", b"\\_SB_"),
        ("^COM1", b"^COM1"),
        ("_SB.PCI0", b"\x2e_SB_PCI0"),
        ("\\A.B.C", b"\\\x2f\x03A___B___C___"),
    ],
)
def test_names(text: str, encoded: bytes) -> None:
    """Root, parent, one, two and more segments have their prefixes (20.2.2)."""
    assert aml.path(text) == encoded


@pytest.mark.parametrize("text", ["abc", "1ABC", "TOOLONG", "A..B", "A.", "^\\A", "\\\\A", "A B"])
def test_bad_names_are_refused(text: str) -> None:
    """What the interpreter would not read is not written."""
    with pytest.raises(ValueError, match="AML name"):
        aml.path(text)


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\0"),
        (1, b"\1"),
        (2, b"\x0a\2"),
        (0x100, b"\x0b\0\1"),
        (0x10000, b"\x0c\0\0\1\0"),
        (1 << 32, b"\x0e\0\0\0\0\1\0\0\0"),
    ],
)
def test_integers_are_shortest(number: int, encoded: bytes) -> None:
    """An integer takes the smallest constant that holds it (20.2.3)."""
    assert aml.value(number) == encoded


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_integers_out_of_range_are_refused(number: int) -> None:
    """AML integers are unsigned and 64 bits wide."""
    with pytest.raises(ValueError, match="no AML integer"):
        aml.value(number)


def test_strings_cannot_carry_a_nul() -> None:
    """A NUL would end the string early and make code of its rest."""
    with pytest.raises(ValueError, match="NUL"):
        aml.value("a\0b")


def test_eisa_id() -> None:
    """PNP0501 is 0x41d00501 with its bytes in big-endian order (19.3.4)."""
    assert aml.eisa_id("PNP0501") == b"\x0c\x41\xd0\x05\x01"
    with pytest.raises(ValueError, match="EISA"):
        aml.eisa_id("pnp0501")


def test_uuid_swaps_its_first_groups() -> None:
    """ToUUID keeps the last eight bytes and swaps the rest group by group."""
    data = aml.uuid("33DB4D5B-1FF7-401C-9657-7441C03DD766")
    assert data[-16:] == bytes.fromhex("5b4ddb33f71f1c4096577441c03dd766")
    with pytest.raises(ValueError, match="UUID"):
        aml.uuid("33DB4D5B-1FF7-401C-9657")


@pytest.mark.parametrize("wrong", [lambda: aml.local(8), lambda: aml.arg(7), lambda: resources.irq(16)])
def test_what_does_not_exist_is_refused(wrong) -> None:
    """Local7, Arg6 and ISA line 15 are the last ones."""
    with pytest.raises(IndexError):
        wrong()


def test_limits_of_packages_and_methods() -> None:
    """255 elements and seven arguments are the most."""
    with pytest.raises(ValueError, match="256 elements"):
        aml.package(*range(256))
    with pytest.raises(ValueError, match="8 arguments"):
        aml.method("M", args=8)


def test_empty_window_is_refused() -> None:
    """A window ends at or behind its start."""
    with pytest.raises(ValueError, match="empty"):
        resources.word_bus(1, 0)
