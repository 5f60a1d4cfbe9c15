"""Command lines cut into options, and options into their parts.

cloud-hypervisor writes ``key=value,key=[a,b],key="a,b"`` (its option_parser crate), QEMU
``value,key=value`` with commas of a value doubled (its keyval and QemuOpts).
"""

from __future__ import annotations

from runner.typed import Iterator, NamedTuple


class Option(NamedTuple):
    """``--disk`` or ``-disk``, without its dashes, and the words up to the next one."""

    name: str
    values: tuple[str, ...]

    @property
    def words(self) -> str:
        """As it was written, for a sentence."""
        dashes = "-" if len(self.name) == 1 else "--"
        return " ".join([dashes + self.name, *self.values])


def options(words: list[str]) -> Iterator[Option]:
    """Every option in order; words before the first one are an option without a name."""
    name, values = "", list[str]()
    for word in words:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            if name or values:
                yield Option(name, tuple(values))
            name, equals, value = word.lstrip("-").partition("=")
            values = [value] if equals else []
        else:
            values.append(word)
    if name or values:
        yield Option(name, tuple(values))


def parts(text: str) -> dict[str, str]:
    """``a=1,b=[x,y],c="p,q"`` by key; a part without ``=`` has the value ``""``."""
    found: dict[str, str] = {}
    for piece in _split(text):
        key, _, value = piece.partition("=")
        found[key] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return found


def _split(text: str) -> Iterator[str]:
    """At commas outside of brackets and quotation marks."""
    start = depth = 0
    quoted = False
    for at, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == "[" and not quoted:
            depth += 1
        elif char == "]" and not quoted:
            depth -= 1
        elif char == "," and not quoted and depth == 0:
            yield text[start:at]
            start = at + 1
    if text[start:]:
        yield text[start:]


def doubled(text: str, first: str) -> dict[str, str]:
    """QEMU's ``value,key=value``: the first part may lack its key, which is ``first`` then."""
    found: dict[str, str] = {}
    for number, piece in enumerate(text.replace(",,", "\0").split(",")):
        key, equals, value = piece.replace("\0", ",").partition("=")
        if equals:
            found[key] = value
        else:
            found[first if number == 0 else key] = key if number == 0 else "on"
    return found


def numbers(text: str) -> list[int]:
    """``[0-3,8]`` or ``0-3``: every number of it; raises ValueError."""
    found: list[int] = []
    for piece in text.strip("[]").split(","):
        low, _, high = piece.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found
