"""Ctrl-A and what follows it: the supervisor's own keys (QEMU's habit).

Everything else the user types belongs to the guest, Ctrl-C included.
"""

from __future__ import annotations

PREFIX = 0x01  # Ctrl-A

HELP = """\
Ctrl-A x  end the guest now
Ctrl-A p  press its power button
Ctrl-A c  next console
Ctrl-A s  what its CPUs do now
Ctrl-A a  send Ctrl-A to the guest
Ctrl-A h  this help
"""

COMMANDS = {
    ord("x"): "end",
    ord("p"): "power-button",
    ord("c"): "next-console",
    ord("s"): "snapshot-state",
    ord("h"): "help",
    ord("?"): "help",
    ord("d"): "detach",
}


class Keys:
    """Separates what is typed into bytes for the guest and commands for us.

    A command key may come in a later read than its Ctrl-A, so the prefix is remembered.
    An unknown key after Ctrl-A asks for help and reaches nobody.
    """

    def __init__(self, commands: dict[int, str] | None = None) -> None:
        self._commands = COMMANDS if commands is None else commands
        self._prefixed = False

    def feed(self, data: bytes) -> list[bytes | str]:
        """In order of typing: bytes for the guest, and names of commands."""
        if not self._prefixed and PREFIX not in data:
            return [data]
        out: list[bytes | str] = []
        plain = bytearray()
        for byte in data:
            if not self._prefixed:
                if byte == PREFIX:
                    self._prefixed = True
                else:
                    plain.append(byte)
                continue
            self._prefixed = False
            if byte in (PREFIX, ord("a")):
                plain.append(PREFIX)
                continue
            if plain:
                out.append(bytes(plain))
                plain.clear()
            out.append(self._commands.get(byte | 0x20 if 0x41 <= byte <= 0x5A else byte, "help"))
        if plain:
            out.append(bytes(plain))
        return out
