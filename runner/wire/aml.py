"""An encoder for AML, the byte code in which ACPI describes devices.

One function for each object or operator, named as in ASL; each returns a :data:`Term`, and
terms nest: ``device("COM1", name("_HID", eisa_id("PNP0501")))``.  A :data:`Value` may be
given as a Python int or str.  Resource descriptors are in :mod:`runner.wire.resources`.
Source: ACPI 6.4, chapter 20 (section numbers below) and 19.3.4 for EISA ids and UUIDs.
"""

from __future__ import annotations

from runner.typed import NewType

Term = NewType("Term", bytes)
"""Encoded AML."""

Value = int | str | Term
"""Data: an integer (0 to 2^64-1), an ASCII string, or a term (buffer, package, reference …)."""

SYSTEM_MEMORY, SYSTEM_IO, PCI_CONFIG = 0, 1, 2
"""Address spaces of :func:`operation_region`."""

BYTE_ACCESS, WORD_ACCESS, DWORD_ACCESS = 1, 2, 3
"""Access widths of :func:`field`."""

_FIRST = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_REST = _FIRST + "0123456789"
_EXT = b"\x5b"


def path(text: str) -> Term:
    """A NameString (20.2.2): ``\\_SB.PCI0``, ``^COM1``, ``_CRS``; short segments are padded with ``_``."""
    body = text.lstrip("\\^")
    prefix = text[: len(text) - len(body)]
    if prefix.strip("^") and prefix != "\\":
        raise ValueError(f"AML name {text!r}: a backslash may only stand at its start")
    segments = [_segment(part, text) for part in body.split(".")] if body else []
    if len(segments) > 255:
        raise ValueError(f"AML name {text!r} has more than 255 segments")
    count = {0: b"\0", 1: b"", 2: b"\x2e"}.get(len(segments), b"\x2f" + bytes([len(segments) & 0xFF]))
    return Term(prefix.encode() + count + b"".join(segments))


def _segment(part: str, whole: str) -> bytes:
    if not 1 <= len(part) <= 4 or part[0] not in _FIRST or any(c not in _REST for c in part):
        raise ValueError(
            f"AML name {whole!r}: {part!r} is not one to four of A-Z, 0-9, _ without a digit first"
        )
    return part.ljust(4, "_").encode()


def pkg_length(size: int) -> bytes:
    """A PkgLength (20.2.4) for ``size`` bytes that follow it; the length counts itself too."""
    if size + 1 < 1 << 6:
        return bytes([size + 1])
    for follow in (1, 2, 3):
        total = size + 1 + follow
        if total < 1 << (4 + 8 * follow):
            return bytes([follow << 6 | total & 0xF]) + (total >> 4).to_bytes(follow, "little")
    raise ValueError(f"an AML package of {size} bytes is too large (2^28 - 1 with its length)")


def _package(opcode: bytes, body: bytes) -> Term:
    return Term(opcode + pkg_length(len(body)) + body)


def value(data: Value) -> Term:
    """Encode data (20.2.3): the shortest constant for an integer, a string with its NUL."""
    if isinstance(data, int):
        return _integer(data)
    if isinstance(data, str):
        raw = data.encode("ascii")
        if b"\0" in raw:
            raise ValueError(f"the AML string {data!r} has a NUL in it")
        return Term(b"\x0d" + raw + b"\0")
    return data


def _integer(number: int) -> Term:
    if number in (0, 1):
        return Term(bytes([number]))
    for size, opcode in ((1, b"\x0a"), (2, b"\x0b"), (4, b"\x0c"), (8, b"\x0e")):
        if 0 <= number < 1 << 8 * size:
            return Term(opcode + number.to_bytes(size, "little"))
    raise ValueError(f"{number} is no AML integer (0 to 2^64 - 1)")


def buffer(data: bytes) -> Term:
    """Buffer () {…} (20.2.5.4)."""
    return _package(b"\x11", _integer(len(data)) + data)


def package(*elements: Value) -> Term:
    """Package () {…} of at most 255 elements (20.2.5.4)."""
    if len(elements) > 255:
        raise ValueError(f"an AML package of {len(elements)} elements is too long (255)")
    return _package(b"\x12", bytes([len(elements)]) + b"".join(map(value, elements)))


def eisa_id(text: str) -> Term:
    """EISAID ("PNP0501"): three letters and four hex digits, compressed into a DWord (19.3.4)."""
    letters, product = text[:3], text[3:]
    if len(text) != 7 or not (letters.isascii() and letters.isalpha() and letters.isupper()):
        raise ValueError(f"{text!r} is no EISA id (three capitals and four hex digits)")
    first, second, third = (ord(c) - 0x40 for c in letters)
    number = first << 26 | second << 21 | third << 16 | int(product, 16)
    return Term(b"\x0c" + number.to_bytes(4, "big"))


def uuid(text: str) -> Term:
    """ToUUID (…): 16 bytes, the first three groups byte-swapped."""
    groups = [bytes.fromhex(group) for group in text.split("-")]
    if [len(group) for group in groups] != [4, 2, 2, 2, 6]:
        raise ValueError(f"{text!r} is no UUID")
    return buffer(b"".join(group[::-1] for group in groups[:3]) + groups[3] + groups[4])


def name(at: str, data: Value) -> Term:
    """Name (at, data)."""
    return Term(b"\x08" + path(at) + value(data))


def scope(at: str, *terms: Term) -> Term:
    """Scope (at) {…}."""
    return _package(b"\x10", path(at) + b"".join(terms))


def device(at: str, *terms: Term) -> Term:
    """Device (at) {…}."""
    return _package(_EXT + b"\x82", path(at) + b"".join(terms))


def method(at: str, *terms: Term, args: int = 0, serialized: bool = False) -> Term:
    """Method (at, args, …) {…}; one that creates named objects has to be serialized."""
    if not 0 <= args <= 7:
        raise ValueError(f"method {at} cannot have {args} arguments")
    return _package(b"\x14", path(at) + bytes([args | serialized << 3]) + b"".join(terms))


def operation_region(at: str, space: int, offset: Value, length: Value) -> Term:
    """OperationRegion (at, space, offset, length)."""
    return Term(_EXT + b"\x80" + path(at) + bytes([space]) + value(offset) + value(length))


def field(region: str, access: int, *units: tuple[str, int]) -> Term:
    """Field (region, access, NoLock, Preserve) of (name, bits); the name "" leaves bits out."""
    body = path(region) + bytes([access])
    for unit, bits in units:
        body += (_segment(unit, unit) if unit else b"\0") + _field_bits(bits)
    return _package(_EXT + b"\x81", Term(body))


def _field_bits(bits: int) -> bytes:
    """As a PkgLength, except that the number does not count itself (20.2.5.2)."""
    if 0 <= bits < 1 << 6:
        return bytes([bits])
    follow = 1 if bits < 1 << 12 else 2 if bits < 1 << 20 else 3
    return bytes([follow << 6 | bits & 0xF]) + (bits >> 4).to_bytes(follow, "little")


def create_dword_field(source: Term, offset: Value, at: str) -> Term:
    """CreateDWordField (source, offset in bytes, at)."""
    return Term(b"\x8a" + source + value(offset) + path(at))


def local(number: int) -> Term:
    """Local0 … Local7."""
    return Term(bytes([0x60 + range(8)[number]]))


def arg(number: int) -> Term:
    """Arg0 … Arg6."""
    return Term(bytes([0x68 + range(7)[number]]))


def store(data: Value, target: Term) -> Term:
    """Store (data, target)."""
    return Term(b"\x70" + value(data) + target)


def bit_and(left: Value, right: Value, target: Term) -> Term:
    """And (left, right, target)."""
    return Term(b"\x7b" + value(left) + value(right) + target)


def bit_or(left: Value, right: Value, target: Term) -> Term:
    """Or (left, right, target)."""
    return Term(b"\x7d" + value(left) + value(right) + target)


def equal(left: Value, right: Value) -> Term:
    """LEqual (left, right)."""
    return Term(b"\x93" + value(left) + value(right))


def not_equal(left: Value, right: Value) -> Term:
    """LNotEqual (left, right)."""
    return Term(b"\x92" + equal(left, right))


def when(predicate: Term, *terms: Term) -> Term:
    """If (predicate) {…}."""
    return _package(b"\xa0", predicate + b"".join(terms))


def otherwise(*terms: Term) -> Term:
    """Else {…}, right behind a :func:`when`."""
    return _package(b"\xa1", b"".join(terms))


def give_back(data: Value) -> Term:
    """Return (data)."""
    return Term(b"\xa4" + value(data))


def notify(target: Term, code: Value) -> Term:
    """Notify (target, code)."""
    return Term(b"\x86" + target + value(code))
