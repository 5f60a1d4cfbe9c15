"""The string formats of the schema: what a definition writes, turned into values.

Each ``format`` of the schema that begins with ``vm-`` has a reader here.  A reader takes the
text and either returns the value every later stage works with (bytes, seconds, a resolved
path) or raises :class:`FormatFault` with words, and where it can with a better text.
"""

from __future__ import annotations

from runner.definition.model import FilePath, Json
from runner.typed import Callable, NamedTuple

SIZE_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
PATH_FORMATS = ("vm-file", "vm-directory", "vm-entry", "vm-output", "vm-sysfs")
MAX_SIZE = 1 << 52  # the width of a physical address on x86 (SDM volume 3, 4.1.4)


class FormatFault(Exception):
    """A text that is not of its format; ``suggestion`` is a text that would be."""

    def __init__(self, message: str, suggestion: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.suggestion = suggestion
        self.hint = hint


class Base(NamedTuple):
    """What a relative path is relative to: the folder of the file, and the user's home."""

    folder: str
    home: str


def size(text: str) -> int:
    """Bytes of ``"512M"``, ``"4G"``, ``"4GiB"``; units are binary (IEC 80000-13)."""
    digits, unit = _split(text)
    if not digits:
        negative = text.startswith("-") and text[1:2].isdecimal()
        words = f"{text} is negative" if negative else f"{text!r} is not a size"
        raise FormatFault(words, hint='a number and a unit, as in "512M" or "4GiB"')
    number = _number(digits, unit)
    if not unit:
        raise FormatFault(
            "a size needs a unit: a bare number means MiB in some tools and bytes in others",
            f"{digits}M" if number else "",
        )
    exact = unit[:-2] if unit.endswith("iB") and len(unit) == 3 and unit != "BiB" else unit
    if exact not in SIZE_UNITS:
        _bad_size_unit(digits, unit)
    if number == 0 or number * SIZE_UNITS[exact] > MAX_SIZE:
        raise FormatFault(f"{text} is out of range: 1 byte to 4096 TiB")
    return number * SIZE_UNITS[exact]


def _bad_size_unit(digits: str, unit: str) -> None:
    short = unit.strip().upper().removesuffix("B").removesuffix("I")
    known = short in SIZE_UNITS and short != "B"
    raise FormatFault(
        f"unknown unit `{unit.strip()}`"
        if unit.strip() not in ("KB", "MB", "GB", "TB")
        else f"`{unit.strip()}` is a decimal unit elsewhere; sizes here are binary",
        f"{digits}{short}" if known else "",
        "units are B, K, M, G, T, or KiB, MiB, GiB, TiB",
    )


def duration(text: str) -> float:
    """Seconds of ``"60s"``, ``"2m"``, ``"500ms"``, ``"1h"``."""
    digits, unit = _split(text)
    number = digits.replace(",", ".")
    if not digits or number.count(".") > 1 or number.endswith("."):
        raise FormatFault(f"{text!r} is not a duration", hint='a number and a unit, as in "60s" or "2m"')
    if not unit:
        raise FormatFault("a duration needs a unit", f"{number}s")
    if unit not in DURATION_UNITS:
        several = any(char.isdecimal() for char in unit)
        words = "a duration is one number with one unit" if several else f"unknown unit `{unit.strip()}`"
        raise FormatFault(words, _in_one_unit(text) or _known_unit(number, unit), "units are ms, s, m, h")
    if number != digits:
        raise FormatFault("a fraction is written with a point", f"{number}{unit}")
    seconds = float(number) * DURATION_UNITS[unit]
    if not 0.001 <= seconds <= 366 * 86400.0:
        raise FormatFault(f"{text} is out of range: 1 ms to 366 days")
    return seconds


def _known_unit(number: str, unit: str) -> str:
    """``"2min"`` with the unit that was meant; "" when none is like it."""
    meant = unit.strip().lower()
    guess = {"sec": "s", "second": "s", "min": "m", "minute": "m", "hour": "h", "msec": "ms"}
    better = (
        guess.get(meant) or guess.get(meant.removesuffix("s")) or (meant if meant in DURATION_UNITS else "")
    )
    return f"{number}{better}" if better else ""


def _in_one_unit(text: str) -> str:
    """``"1m30s"`` as seconds, ``"1d"`` as hours; "" for what is no such sum."""
    units = {**DURATION_UNITS, "d": 86400.0}
    total, least, rest = 0.0, "h", text.replace(" ", "")
    while rest:
        digits, tail = _split(rest)
        unit = next((one for one in units if tail.startswith(one)), "")
        if not digits.isdecimal() or not unit or len(digits) > 9:
            return ""
        total += int(digits) * units[unit]
        least = min(least, unit, key=units.__getitem__)
        rest = tail.removeprefix(unit)
    return f"{round(total / units[least])}{least}"


def _split(text: str) -> tuple[str, str]:
    """Leading digits (with . or ,) and the rest."""
    end = 0
    while end < len(text) and (text[end] in "0123456789" or (end and text[end] in ".,")):
        end += 1
    return text[:end], text[end:]


def _is_decimal(digits: str) -> bool:
    return digits.count(".") <= 1 and "," not in digits and not digits.endswith(".") and len(digits) < 20


def _number(digits: str, unit: str) -> int:
    if not digits.isdecimal():
        better = _whole(digits.replace(",", "."), unit.strip()[:1].upper())
        hint = "" if better else '"1.5G" is written "1536M"'
        raise FormatFault("a size is a whole number of units", better, hint)
    if len(digits) > 20:
        raise FormatFault("the number is too large")
    if digits != "0" and digits.startswith("0"):
        raise FormatFault("a size does not begin with 0")
    return int(digits)


def _whole(digits: str, unit: str) -> str:
    """A size with a fraction, in the next smaller unit; "" if that is no whole number either."""
    smaller = {"K": "B", "M": "K", "G": "M", "T": "G"}.get(unit, "")
    if not smaller or not _is_decimal(digits):
        return ""
    number = float(digits) * 1024
    return f"{int(number)}{smaller}" if number == int(number) and number else ""


def path(text: str, base: Base) -> FilePath:
    """A path as written and resolved: relative to the file that says it, ``~`` is the home."""
    if not text:
        raise FormatFault("an empty path")
    if "\0" in text:
        raise FormatFault("a path cannot contain a NUL character")
    if text.startswith("~") and text != "~" and not text.startswith("~/"):
        raise FormatFault("only `~/…`, the own home directory, is understood", hint="write the path out")
    full = base.home + text[1:] if text.startswith("~") else text
    if not full.startswith("/"):
        full = base.folder.rstrip("/") + "/" + full
    return FilePath(text, _normal(full))


def _normal(full: str) -> str:
    """Without ``.`` and doubled slashes; ``..`` stays, since it may follow a symbolic link."""
    parts = [part for part in full.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def _hex(text: str, lengths: tuple[int, ...]) -> str | None:
    digits = text.lower().removeprefix("0x")
    ok = len(digits) in lengths and all(c in "0123456789abcdef" for c in digits)
    return digits if ok else None


def hex16(text: str) -> str:
    """A PCI vendor or device id: four hexadecimal digits, returned in lower case without 0x."""
    digits = _hex(text, (4,))
    if digits is None:
        raise FormatFault(f"{text!r} is not a PCI id", hint='four hexadecimal digits, as in "10ec"')
    return digits


def pci_class(text: str) -> str:
    """A PCI class code, or the beginning of one: two, four or six hexadecimal digits."""
    digits = _hex(text, (2, 4, 6))
    if digits is None:
        raise FormatFault(f"{text!r} is not a class code", hint='two, four or six hexadecimal digits: "0805"')
    return digits


def slot(text: str) -> str:
    """``"00:05.0"``: bus, device (below 0x20) and function (below 8), PCI 3.0 §3.2.2.3.2."""
    full = _pci(text, with_domain=False)
    if full is None:
        short = _pci(f"00:{text}", with_domain=False) or _pci(text.partition(":")[2], with_domain=False)
        padded = _pci(f"00:{text.zfill(2)}.0", with_domain=False)
        raise FormatFault(
            f"{text!r} is not a slot", short or padded or "", 'BUS:DEVICE.FUNCTION, as in "00:05.0"'
        )
    return full


DOMAIN_DIGITS = (4, 5, 6, 7, 8)  # Linux prints at least four, and gives VMD's domains five


def pci_address(text: str) -> str:
    """``"0000:01:00.0"``; a missing domain is 0000."""
    full = _pci(text, with_domain=True) or _pci(f"0000:{text}", with_domain=True)
    if full is None:
        raise FormatFault(f"{text!r} is not a PCI address", hint='as lspci -D shows it: "0000:01:00.0"')
    return full


def _pci(text: str, *, with_domain: bool) -> str | None:
    *front, rest = text.lower().split(":")
    device, dot, function = rest.partition(".")
    widths = (DOMAIN_DIGITS, (2,)) if with_domain else ((2,),)
    fine = (
        len(front) == len(widths)
        and all(_hex("0x" + part, width) for part, width in zip(front, widths, strict=True))
        and _hex("0x" + device, (2,))
        and int(device, 16) < 32
        and dot
        and len(function) == 1
        and function in "01234567"
    )
    return text.lower() if fine else None


def sysfs(text: str, base: Base) -> FilePath:
    """A PCI function's folder in sysfs; its last part is the address."""
    found = path(text, base)
    last = found.resolved.rstrip("/").rpartition("/")[2]
    if not found.resolved.startswith("/sys/") or _pci(last, with_domain=True) is None:
        raise FormatFault(
            f"{text!r} is not a PCI device in sysfs", hint='as in "/sys/bus/pci/devices/0000:01:00.0/"'
        )
    return found


def mac(text: str) -> str:
    """Six bytes in hexadecimal, unicast and not zero; returned in lower case with colons."""
    parts = text.lower().replace("-", ":").split(":")
    if len(parts) != 6 or any(_hex("0x" + part, (2,)) is None for part in parts):
        raise FormatFault(f"{text!r} is not a MAC address", hint='six bytes, as in "52:54:00:12:34:56"')
    if "-" in text:
        raise FormatFault("a MAC address is written with colons", ":".join(parts))
    if int(parts[0], 16) & 1:
        first = f"{int(parts[0], 16) & 0xFE:02x}"
        raise FormatFault(
            "a multicast address: the lowest bit of the first byte is set", ":".join([first, *parts[1:]])
        )
    if not any(int(part, 16) for part in parts):
        raise FormatFault("an all-zero MAC address")
    return ":".join(parts)


def address(text: str) -> str:
    """An IPv4 or IPv6 address of the host."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise FormatFault(f"{text!r} is not an IP address", hint='as in "127.0.0.1" or "::1"') from None


def sha256(text: str) -> str:
    """64 hexadecimal digits, returned in lower case."""
    if text.lower().startswith("0x") or _hex(text, (64,)) is None:
        raise FormatFault(f"{text!r} is no SHA-256 sum", hint="the first word that sha256sum prints")
    return text.lower()


def cmdline(text: str) -> str:
    """Kernel parameters on one line: the kernel's parser knows no line breaks."""
    if any(c in text for c in "\n\r\0"):
        raise FormatFault(
            "a kernel command line is one line", hint='inside """…""" end each line with a backslash'
        )
    return text


Reader = Callable[[str], Json]

READERS: dict[str, Reader] = {
    "vm-size": size,
    "vm-duration": duration,
    "vm-hex16": hex16,
    "vm-class": pci_class,
    "vm-slot": slot,
    "vm-pci-address": pci_address,
    "vm-mac": mac,
    "vm-ip": address,
    "vm-cmdline": cmdline,
    "vm-sha256": sha256,
}

WORDS = {
    "vm-size": 'size with a binary unit, as in "512M" or "4GiB"',
    "vm-duration": 'duration with a unit, as in "60s" or "2m"',
    "vm-hex16": 'four hexadecimal digits, as in "10ec"',
    "vm-class": 'two, four or six hexadecimal digits, as in "0805"',
    "vm-slot": 'slot, as in "00:05.0"',
    "vm-pci-address": 'PCI address, as in "0000:01:00.0"',
    "vm-mac": 'MAC address, as in "52:54:00:12:34:56"',
    "vm-ip": 'IP address, as in "127.0.0.1"',
    "vm-cmdline": "kernel parameters on one line",
    "vm-sha256": "64 hexadecimal digits",
    "vm-file": "path of a file",
    "vm-directory": "path of a directory",
    "vm-entry": "path of a file or directory",
    "vm-definition": "path of a definition, or of a piece of one",
    "vm-output": "path of a file to make",
    "vm-sysfs": "path of a PCI device in sysfs",
    "vm-name": "name: a letter, then letters, digits, `_`, `.` and `-`",
    "vm-device-name": "name: a letter, then letters, digits, `_` and `-`, at most 32",
    "vm-package": "name of a Debian package",
    "vm-package-version": 'version of a Debian package, as in "6.1.158-1"',
    "vm-url": "address that begins with https:// or file:/// (three slashes)",
    "vm-module": "name of a kernel module",
    "vm-guest-path": "absolute path in the guest",
    "vm-root": 'block device in the guest, as in "/dev/vda1", "UUID=…" or "LABEL=root"',
    "vm-cpu-model": "name of a CPU model",
    "vm-cpu-feature": 'CPU feature with its sign, as in "+svm" or "-avx512f"',
    "vm-disk-serial": "1 to 20 printable ASCII characters",
    "vm-interface": "name of an interface: at most 15 characters, no blank, `/`, `:` or `%`",
    "vm-tag": "1 to 36 printable ASCII characters without blanks",
    "vm-port-name": "1 to 63 printable ASCII characters without blanks",
    "vm-bus": "name of a `pcie-root-port` device",
}


def read(form: str, text: str, base: Base) -> Json:
    """The value of ``text`` in format ``form``.  Raises FormatFault."""
    if form == "vm-sysfs":
        return dict(sysfs(text, base)._asdict())
    if form in PATH_FORMATS:
        return dict(path(text, base)._asdict())
    reader = READERS.get(form)
    return reader(text) if reader else text
