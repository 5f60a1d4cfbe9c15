"""Any text at all: no traceback, and every finding's position lies inside the text."""
# ruff: noqa: E501 - the table of fragments

from __future__ import annotations

import pytest
from broken_definitions import BROKEN
from hypothesis import given, settings
from hypothesis import strategies as st
from test_definition_broken import unmarked

from runner.cli.show_findings import show
from runner.definition.findings import MOST
from runner.definition.load import Inspection, inspect_bytes, inspect_text
from runner.definition.positions import Positions
from runner.definition.toml_fault import toml_fault

FRAGMENTS = (
    "kernel", "cpus", "memory", "disks", "net.a", "devices.x", "[", "]", "[[", "]]", "{", "}", "=", "=", ".", ",", "\n",
    "\n", "\n", " ", "\t", "#", '"', "'", '"""', "'''", "\\", "\r\n", "1", "0x", "-1", "1e9", "true", "True", "nan",
    '"512M"', '"x"', "1979-05-27", "07:32:00", "é", "日", "\u0301", "\ufeff", "\x00", "\x0c", "\u2028", "driver", '"vfio"',
    "extends", '"no.toml"', "params", "x", '"{{x}}"', '"a{{x}}b"', "\u00a0", "\u200b", "“", "４",
    "serial", '"off"', "slot", '"00:05.0"', "_", "-", ":", ";",
)  # fmt: skip
SOUP = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)
TEXTS = [unmarked(case.text)[0] for case in BROKEN]


def sound(inspection: Inspection, text: str) -> None:
    """What holds for every inspection of every text."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    assert (inspection.definition is None) == any(one.severity == "error" for one in inspection.findings)
    for one in inspection.findings:
        assert 1 <= one.line <= len(lines)
        assert 1 <= one.column <= len(lines[one.line - 1]) + 1
        assert one.column < one.end <= max(len(lines[one.line - 1]) + 1, one.column + 1)
        assert one.source == lines[one.line - 1]
        assert one.message
        shown = show(one)
        assert shown.count("\n") == shown.replace("\r", "").count("\n")
        assert "\x1b" not in shown
        assert "^" in shown
    positions = [(one.line, one.column) for one in inspection.findings]
    assert positions == sorted(positions)


@given(st.text(max_size=200))
def test_any_text_gives_findings_or_a_definition(text: str) -> None:
    """Arbitrary Unicode never raises, and positions lie inside it."""
    sound(inspect_text(text, "x.toml"), text)


@settings(max_examples=400)
@given(SOUP)
def test_soup_of_toml_gives_findings_or_a_definition(text: str) -> None:
    """Pieces of TOML in any order never raise, and positions lie inside the text."""
    sound(inspect_text(text, "x.toml"), text)


@settings(max_examples=400)
@given(st.sampled_from(TEXTS), st.data())
def test_a_damaged_file_gives_findings_or_a_definition(text: str, data: st.DataObject) -> None:
    """A file from which a piece was cut and into which another was put never raises."""
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(len(text), start + 8)))
    damaged = text[:start] + data.draw(SOUP) + text[stop:]
    sound(inspect_text(damaged, "x.toml"), damaged)


@given(st.binary(max_size=100))
def test_any_bytes_give_findings_or_a_definition(data: bytes) -> None:
    """A file that is no text never raises."""
    sound(inspect_bytes(data, "x.toml"), data.decode("utf-8", "replace"))


@settings(max_examples=200)
@given(SOUP)
def test_every_syntax_error_is_reported_as_one(text: str) -> None:
    """What tomllib refuses is never passed over in silence: there is a finding of syntax or repetition."""
    if toml_fault(text) is not None:
        codes = {one.code for one in inspect_text(text, "x.toml").findings}
        assert codes & {"syntax", "duplicate"}


def test_brackets_without_end_are_refused() -> None:
    """A text of thousands of brackets ends the recursion of no reader, and is told in one finding."""
    for text in ("a = " + "[" * 5000, "a = " + "{a=" * 5000, "[a" + ".a" * 5000 + "]"):
        sound(inspect_text(text, "x.toml"), text)
    assert inspect_text("a = " + "[" * 5000, "x.toml").findings[0].message == "nested too deeply to be read"


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    """Python's limit on digits is a finding at the number, not a traceback."""
    text = "kernel = 'k'\nserial = 'off'\ncpus = " + "9" * 5000
    found = inspect_text(text, "x.toml").findings
    assert [(one.line, one.column, one.code) for one in found] == [(3, 8, "syntax")]


def test_a_file_that_is_no_toml_is_not_told_line_by_line() -> None:
    """Ten thousand broken lines give a hundred findings, in less than a few seconds."""
    text = "this is no toml\n" * 10_000
    assert len(inspect_text(text, "x.toml").findings) == 100


def test_a_key_repeated_thousands_of_times_is_placed_with_one_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the keys stand is found out once, and not once for each of them."""
    read = []
    document = Positions._document
    monkeypatch.setattr(Positions, "_document", lambda self, root: (read.append(1), document(self, root))[1])
    findings = inspect_text("cpus = 1\n" * 5000, "x.toml").findings
    assert [one.code for one in findings] == ["duplicate"] * MOST
    assert [one.line for one in findings] == list(range(2, MOST + 2))
    assert len(read) == 1


def test_a_byte_that_is_not_utf8_is_told_at_its_place() -> None:
    """The first wrong byte has line and column, counted in characters."""
    found = inspect_bytes('kernel = "k"\nname = "é'.encode() + b'\xff"\n', "x.toml").findings
    assert [(one.line, one.column, one.code) for one in found] == [(2, 10, "encoding")]
