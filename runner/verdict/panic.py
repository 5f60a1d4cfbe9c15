"""A Linux kernel panic, read from the console."""

from __future__ import annotations

from runner.typed import NamedTuple

MARK = "Kernel panic - not syncing"
KERNEL_WORDS = (
    "CPU:",
    "Hardware name:",
    "Call Trace:",
    "Kernel Offset:",
    "Rebooting in",
    "---[ end",
    " ",
    "<",
)


class Panic(NamedTuple):
    """``cause`` is the kernel's own clause; ``line`` its index; ``last`` whether nothing lived after it."""

    cause: str
    line: int
    last: bool


def find(lines: list[str]) -> Panic | None:
    """The last panic of ``lines``.

    ``last`` is False when something other than the kernel's own farewell follows: then
    the text was only shown (an old log), or another kernel was started (kdump).
    """
    import re

    opening = re.compile(r"^(\[ *\d+\.\d+\](?:\[[^\]]*\])? |<\d>)?" + re.escape(MARK) + r": ?(.*)$")
    found = None
    for number, line in enumerate(lines):
        match = opening.match(line)
        if match:
            found = (number, bool(match[1]), match[2])
    if found is None:
        return None
    number, stamped, cause = found
    stamp = re.compile(r"^\[ *\d+\.\d+\]")
    rest = [line for line in lines[number + 1 :] if line]
    farewell = all(stamp.match(line) if stamped else line.startswith(KERNEL_WORDS) for line in rest)
    another = any("Linux version " in line for line in rest)
    return Panic(cause.strip() or "no cause given", number, farewell and not another)
