"""QEMU's machine protocol as bytes in, values out: JSON objects, one a line.

Specification: QEMU docs/interop/qmp-spec.txt.  Nothing here touches a descriptor.
"""

from __future__ import annotations

from runner.typed import Any, Mapping, NamedTuple

LINE_LIMIT = 1 << 20


class Told(NamedTuple):
    """An asynchronous event: its name, data and the wall clock's seconds."""

    name: str
    data: Mapping[str, Any]
    at: float


class Answered(NamedTuple):
    """The answer to command ``tag``; ``error`` is QEMU's sentence, "" when it went well."""

    tag: str
    value: Any
    error: str


class Qmp:
    """The client's side of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Told | Answered]:
        """Take what was read; returns the messages that are now complete.

        The greeting is swallowed.  Raises ValueError for what is no QMP.
        """
        self._buffer += data
        messages = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            message = _decode(line)
            if message is not None:
                messages.append(message)
        if len(self._buffer) > LINE_LIMIT:
            raise ValueError(f"a QMP line of more than {LINE_LIMIT} bytes")
        return messages


def command(name: str, arguments: Mapping[str, Any] | None = None, *, tag: str = "") -> bytes:
    """One command as the bytes to send; its answer carries ``tag`` (default: the name)."""
    import json

    message: dict[str, Any] = {"execute": name, "id": tag or name}
    if arguments:
        message["arguments"] = dict(arguments)
    return json.dumps(message).encode() + b"\r\n"


def _decode(line: bytes) -> Told | Answered | None:
    import json

    if not line.strip():
        return None
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"not a QMP message: {line[:80]!r}")
    if "event" in message:
        stamp = message.get("timestamp", {})
        at = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
        return Told(message["event"], message.get("data", {}), at)
    if "error" in message:
        reason = str(message["error"].get("desc", "no reason given"))
        return Answered(str(message.get("id", "")), None, reason)
    if "return" in message:
        return Answered(str(message.get("id", "")), message["return"], "")
    return None
