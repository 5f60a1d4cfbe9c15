"""Kernel parameters that shorten a boot, by the names that ``shorten_boot`` has for them.

Documentation/admin-guide/kernel-parameters.txt says what each does.  None is added that the file does
not ask for (docs/decisions/0105).
"""

from __future__ import annotations

PARAMETERS = {
    "no-crypto-selftests": "cryptomgr.notests",
    "trust-cpu-random": "random.trust_cpu=on",
    "reliable-tsc": "tsc=reliable",
}


def parameters(names: tuple[str, ...], cmdline: str) -> tuple[tuple[str, str], ...]:
    """(parameter, name) of each that is asked for and does not stand in ``cmdline`` anyway."""
    said = cmdline.split()
    return tuple((PARAMETERS[name], name) for name in names if PARAMETERS[name] not in said)
