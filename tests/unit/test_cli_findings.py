"""A finding on the screen: the caret stands under the text, whatever the line is made of."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.cli.show_findings import MOST_COLUMNS, show, show_all, wants_colour, width, window
from runner.definition.findings import Finding


def finding(source: str, text: str, **more: str) -> Finding:
    start = source.index(text) + 1
    return Finding("x.toml", 3, start, start + len(text), "error", "code", "wrong", source=source, **more)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_whole_of_a_finding() -> None:
    """Place, sentence, line, caret, expected, found, suggestion and hint, one below the other."""
    one = finding(
        'cpus = "4"', '"4"', expected="an integer", found='string "4"', suggestion="4", hint="no quotes"
    )
    assert show(one) == (
        "x.toml:3:8: error: wrong\n"
        '  3 | cpus = "4"\n'
        "    |        ^^^\n"
        "    = expected: an integer\n"
        '    = found: string "4"\n'
        "    = did you mean `4`?\n"
        "    = hint: no quotes\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("\tcpus = 0", "0"),
        ("a\t=\t0", "0"),
        ('n = "日本" # 語 x', "x"),
        ('n = "e\u0301" x', "x"),
        ("n = \x1b[31m x", "x"),
    ],
)
def test_the_caret_stands_below_the_text(source: str, text: str) -> None:
    """Tabs, wide and combining characters and escape sequences do not move it."""
    _, line, carets, *_ = show(finding(source, text)).splitlines()
    before = line[: line.rindex(text)]
    assert width(before) == carets.index("^")


def test_a_long_line_is_shown_around_the_caret() -> None:
    """Both sides are cut, the marked text stays."""
    source = "a" * 400 + "WRONG" + "b" * 400
    _, line, carets, *_ = show(finding(source, "WRONG")).splitlines()
    assert line.count("…") == 2
    assert line[carets.index("^") : carets.rindex("^") + 1] == "WRONG"


@given(st.text(max_size=300), st.integers(0, 300), st.integers(1, 300))
def test_a_window_keeps_the_caret_inside(line: str, start: int, length: int) -> None:
    """No window is wider than its limit, and none contains what moves a cursor."""
    start = min(start, len(line))
    before, marked, after = window(line, start, start + length)
    assert width(before + marked + after) <= MOST_COLUMNS + 2
    assert all(char.isprintable() or char.isspace() for char in before + marked + after)
    assert not set(before + marked + after) & {"\n", "\r", "\x1b", "\t", "\x07"}


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only on a terminal, never with NO_COLOR, and the text is the same without them."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    one = finding("cpus = 0", "0", suggestion="1")
    coloured = show_all([one], Terminal())
    assert "\x1b[" in coloured
    import re

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == show_all([one], io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_a_file_name_cannot_write_to_the_terminal() -> None:
    """Escape sequences in names and values are shown, not sent."""
    one = finding("cpus = 0", "0")._replace(file="\x1b]0;x\x07.toml", message="\x1b[2J")
    assert "\x1b" not in show(one)
