"""JSON (RFC 8259) for what the VM process tells its supervisor.

``json`` brings regular expressions and enumerations with it, a fifth of what the VM process
imports before its guest starts; to write plain values takes less.  The supervisor, which reads
what a process tells that a guest may have taken over, uses the library's strict parser.
"""

from __future__ import annotations

_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_WORDS = {None: "null", True: "true", False: "false"}


def encode(value: object) -> str:
    """ASCII text on one line.  Raises TypeError for what JSON has no form of, ValueError for nan and inf."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if value - value != 0.0:
            raise ValueError("JSON has no form of nan and infinity")
        return float.__repr__(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_string(key)}:{encode(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([encode(item) for item in value]) + "]"
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _string(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a {type(text).__name__} is no key")
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join([_SHORT.get(char) or _plain(char) for char in text]) + '"'


def _plain(char: str) -> str:
    """Printable ASCII as it is, the rest as UTF-16 in hex (RFC 8259, section 7), without a codec's import."""
    if " " <= char <= "~":
        return char
    point = ord(char)
    if point < 0x10000:
        return f"\\u{point:04x}"
    point -= 0x10000
    return f"\\u{0xD800 | point >> 10:04x}\\u{0xDC00 | point & 0x3FF:04x}"
