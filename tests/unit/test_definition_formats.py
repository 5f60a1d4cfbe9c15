"""The string formats: what is read, what is refused, and that refusals suggest something right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.definition import formats
from runner.definition.formats import Base, FormatFault
from runner.definition.schema import whole_schema

BASE = Base("/vms", "/home/me")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("4K", 4096),
        ("512M", 512 << 20),
        ("4G", 4 << 30),
        ("4GiB", 4 << 30),
        ("2TiB", 2 << 40),
        ("1MiB", 1 << 20),
    ],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    """K, M, G and T are powers of 1024, with or without iB."""
    assert formats.size(text) == size


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("512", "512M"),
        ("512MB", "512M"),
        ("512m", "512M"),
        ("2 G", "2G"),
        ("2gib", "2G"),
        ("2Gb", "2G"),
        ("2GB", "2G"),
    ],
)
def test_a_refused_size_suggests_a_right_one(text: str, better: str) -> None:
    """The suggestion is what was meant, and is itself accepted."""
    with pytest.raises(FormatFault) as fault:
        formats.size(text)
    assert fault.value.suggestion == better
    assert formats.size(better)


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1G", "+1G", "1.5G", "1,5G", "0G", "00G", "01G", "1X", "1BiB", "9999999T", "1e3M", "½G", "١G"],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """No sign, no fraction, no zero, no other digits, nothing beyond a physical address."""
    with pytest.raises(FormatFault):
        formats.size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60.0), ("2m", 120.0), ("500ms", 0.5), ("1h", 3600.0), ("1.5s", 1.5)]
)
def test_durations_become_seconds(text: str, seconds: float) -> None:
    """Milliseconds, seconds, minutes and hours, with a fraction where it helps."""
    assert formats.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("60", "60s"),
        ("1m30s", "90s"),
        ("1d", "24h"),
        ("1h 500ms", "3600500ms"),
        ("1,5m", "1.5m"),
        ("2min", "2m"),
        ("5secs", "5s"),
        ("3 s", "3s"),
        ("1S", "1s"),
        ("1hours", "1h"),
    ],
)
def test_a_refused_duration_suggests_a_right_one(text: str, better: str) -> None:
    """The suggestion is what was meant, and is itself accepted."""
    with pytest.raises(FormatFault) as fault:
        formats.duration(text)
    assert fault.value.suggestion == better
    assert formats.duration(better)


@pytest.mark.parametrize(
    "text",
    ["", "s", "0s", "-1s", "1d", "1..5s", "1.s", "99999h", "9" * 400 + "h", "1.5.5s", "forever", "1e3s"],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """No zero, no sign, no other unit, nothing beyond a year."""
    with pytest.raises(FormatFault):
        formats.duration(text)


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("k", "/vms/k"),
        ("./k", "/vms/k"),
        ("a//b/", "/vms/a/b"),
        ("../k", "/vms/../k"),
        ("/k", "/k"),
        ("~", "/home/me"),
        ("~/k", "/home/me/k"),
        ("a~b", "/vms/a~b"),
    ],
)
def test_paths_are_relative_to_the_file(text: str, resolved: str) -> None:
    """Relative to the folder of the file, ~ is the home; ``..`` stays, for it may follow a link."""
    assert formats.path(text, BASE) == (text, resolved)


@pytest.mark.parametrize("text", ["", "~bob/k", "a\0b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    """Nothing, somebody's home, and a NUL."""
    with pytest.raises(FormatFault):
        formats.path(text, BASE)


@pytest.mark.parametrize(
    ("text", "better"), [("5", "00:05.0"), ("05.0", "00:05.0"), ("0000:00:05.0", "00:05.0")]
)
def test_a_refused_slot_suggests_a_right_one(text: str, better: str) -> None:
    """A device number, a slot without its bus, and one with a domain."""
    with pytest.raises(FormatFault) as fault:
        formats.slot(text)
    assert fault.value.suggestion == better
    assert formats.slot(better) == better


@pytest.mark.parametrize(
    "text",
    ["", "00:20.0", "00:05.8", "00:05", "00:5.0", "0:05.0", "00:05.00", "gg:05.0", "00:05,0", "00:0x.0"],
)
def test_what_is_no_slot_is_refused(text: str) -> None:
    """Device below 0x20, function below 8, two digits each."""
    with pytest.raises(FormatFault):
        formats.slot(text)


def test_addresses_are_written_in_one_way() -> None:
    """Lower case, with the domain, without 0x: later stages compare them as text."""
    assert formats.pci_address("0A:1F.7") == "0000:0a:1f.7"
    assert formats.pci_address("10000:E1:00.0") == "10000:e1:00.0"  # behind Intel's VMD
    assert formats.slot("00:1F.3") == "00:1f.3"
    assert formats.hex16("0x10EC") == "10ec"
    assert formats.pci_class("0x0805") == "0805"
    assert formats.mac("52:54:00:AB:CD:EF") == "52:54:00:ab:cd:ef"
    assert formats.address("::0001") == "::1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:5g",
        "00:00:00:00:00:00",
        "01:00:5e:00:00:01",
        "52-54-00-12-34-56",
    ],
)
def test_what_is_no_mac_is_refused(text: str) -> None:
    """Six bytes with colons, unicast, not zero."""
    with pytest.raises(FormatFault):
        formats.mac(text)


def formatted(schema: Any) -> Iterator[tuple[str, str]]:
    """(format, pattern) of each string of the schema that has both."""
    if isinstance(schema, dict):
        if "format" in schema and "pattern" in schema:
            yield schema["format"], schema["pattern"]
        for part in schema.values():
            yield from formatted(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from formatted(part)


PATTERNS = sorted({(form, pattern) for form, pattern in formatted(whole_schema()) if form in formats.READERS})


@pytest.mark.parametrize(("form", "pattern"), PATTERNS)
@given(data=st.data())
def test_what_a_reader_accepts_an_editor_accepts(form: str, pattern: str, data: st.DataObject) -> None:
    """A reader and the pattern that editors check with never disagree on an accepted text."""
    text = data.draw(
        st.from_regex(pattern, fullmatch=True) | st.text("0123456789abcfKMGTiBsmh:.x-", max_size=12)
    )
    try:
        formats.read(form, text, BASE)
    except FormatFault:
        return
    assert re.search(pattern, text)


@given(st.sampled_from(sorted(formats.WORDS)), st.text(max_size=20))
def test_a_reader_reads_or_says_why_not(form: str, text: str) -> None:
    """Any text is a value or a FormatFault with words, never another exception."""
    try:
        formats.read(form, text, BASE)
    except FormatFault as fault:
        said = str(fault)
        assert said
