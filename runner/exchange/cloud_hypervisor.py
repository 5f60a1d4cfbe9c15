"""cloud-hypervisor's command line as a definition (its ``--help``, version 40 and its neighbours).

Its defaults are not ours (its serial port is ``null``, its console ``tty``), so they are said.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.exchange.options import Option, numbers, options, parts
from runner.exchange.taken import Imported, Table, Taking, name_of, switch
from runner.typed import Callable

PLAIN = {"kernel": "kernel", "initramfs": "initramfs", "cmdline": "cmdline"}
MODES = ("off", "null", "pty", "tty")
ITS_OWN = ("api-socket", "event-monitor", "log-file", "seccomp", "v", "vv", "vvv", "landlock")
"""Options about the program, not about the machine."""


def read(words: list[str]) -> Imported:
    """The machine that these words (after the program's name) start."""
    taking = Taking()
    taking.put("serial", "null")
    taking.put("console", "tty")
    for option in options(words):
        reader = READERS.get(option.name)
        if option.name in PLAIN and len(option.values) == 1:
            taking.put(PLAIN[option.name], option.values[0])
        elif reader is None:
            taking.leave(option.words, "it is about the program" if option.name in ITS_OWN else NOTHING)
        else:
            for value in option.values or ("",):
                reader(taking, option, parts(value))
    return taking.done()


NOTHING = "vmrun has nothing of the kind"


def _rest(taking: Taking, option: Option, said: dict[str, str]) -> None:
    """Parts of an option that nothing was made from."""
    for key, value in said.items():
        taking.leave(f"--{option.name} {key}={value}")


def size(text: str) -> str:
    """``512M`` as it is, bare bytes with their unit."""
    return f"{text}B" if text.isdecimal() else text.upper()


def _cpus(taking: Taking, option: Option, said: dict[str, str]) -> None:
    bare = "" if "boot" in said else next(filter(str.isdecimal, said), "")  # `--cpus 4`, its first form
    count = said.pop("boot", bare or "1")
    said.pop(bare, "")
    if said.get("max", count) == count:
        said.pop("max", "")
    table: Table = {"count": int(count)}
    if "topology" in said:
        threads, cores, dies, packages = map(int, said.pop("topology").split(":"))
        table["topology"] = {"sockets": packages, "cores": cores * dies, "threads": threads}
    places = _affinity(said.get("affinity", "[]"), int(count))
    if all(places):
        table["affinity"] = places
        said.pop("affinity", "")
    taking.put("cpus", table if len(table) > 1 else int(count))
    _rest(taking, option, said)


def _affinity(text: str, count: int) -> list[Json]:
    """``[0@[0-3],1@[4]]``: for each CPU the host's; none for one that is not named."""
    places: dict[int, list[Json]] = {}
    for piece in parts(text[1:-1]):
        cpu, _, where = piece.partition("@")
        places[int(cpu)] = list(numbers(where))
    return [list(places.get(cpu, [])) for cpu in range(count)]


def _memory(taking: Taking, option: Option, said: dict[str, str]) -> None:
    table: Table = {"size": size(said.pop("size", "512M"))}
    for theirs, ours in (("shared", "shared"), ("mergeable", "merge"), ("prefault", "prefault")):
        if switch(said.pop(theirs, "off")):
            table[ours] = True
    pages = said.pop("hugepage_size", "2M")
    if switch(said.pop("hugepages", "off")):
        table["hugepages"] = pages
    taking.put("memory", table if len(table) > 1 else table["size"])
    _rest(taking, option, said)


def _disk(taking: Taking, option: Option, said: dict[str, str]) -> None:
    path = said.pop("path", "")
    table: Table = {"path": path, "format": image_format(path, said.pop("image_type", ""), taking)}
    for key in ("readonly", "direct"):
        if switch(said.pop(key, "off")):
            table[key] = True
    if "serial" in said:
        table["serial"] = said.pop("serial")
    queues = int(said.pop("num_queues", "1"))
    if queues > 1:
        table["queues"] = queues
    taking.section("disks", name_of(said.pop("id", ""), "disk"), table)
    _rest(taking, option, said)


def image_format(path: str, stated: str, taking: Taking) -> str:
    """The stated format; without one what the file's name says, with a note: it is never guessed later."""
    if stated.lower() in ("raw", "qcow2"):
        return stated.lower()
    form = "qcow2" if path.endswith((".qcow2", ".qcow")) else "raw"
    taking.remark(f'the format of {path} was not stated: look whether "{form}" is right')
    return form


def _net(taking: Taking, option: Option, said: dict[str, str]) -> None:
    said = {key: value for key, value in said.items() if value}  # a part without a value is its default
    table: Table = {"backend": "tap"}
    for key in ("tap", "mac"):
        if key in said:
            table[key] = said.pop(key)
    if "mtu" in said:
        table["mtu"] = int(said.pop("mtu"))
    pairs = int(said.pop("num_queues", "2")) // 2
    if pairs > 1:
        table["queues"] = pairs
    taking.section("net", name_of(said.pop("id", ""), "net"), table)
    _rest(taking, option, said)


def _fs(taking: Taking, option: Option, said: dict[str, str]) -> None:
    tag = said.pop("tag", "fs")
    taking.section("fs", name_of(said.pop("id", tag), "fs"), {"path": ".", "tag": tag})
    why = "vmrun starts virtiofsd itself: write the directory that it shares into `path`"
    taking.leave(f"--fs socket={said.pop('socket', '')}", why)
    _rest(taking, option, said)


def _device(taking: Taking, option: Option, said: dict[str, str]) -> None:
    table: Table = {"driver": "vfio", "path": said.pop("path", "")}
    taking.section("devices", name_of(said.pop("id", ""), "device"), table)
    _rest(taking, option, said)


def _pmem(taking: Taking, option: Option, said: dict[str, str]) -> None:
    table: Table = {"path": said.pop("file", ""), "size": size(said.pop("size", "1G"))}
    if switch(said.pop("discard_writes", "off")):
        table["readonly"] = True
    taking.section("pmem", name_of(said.pop("id", ""), "pmem"), table)
    _rest(taking, option, said)


def _vsock(taking: Taking, option: Option, said: dict[str, str]) -> None:
    table: Table = {"cid": int(said.pop("cid", "3"))}
    if "socket" in said:
        table["socket"] = said.pop("socket")
    said.pop("id", "")
    taking.put("vsock", table)
    _rest(taking, option, said)


def _rng(taking: Taking, option: Option, said: dict[str, str]) -> None:
    taking.put("rng", True)
    if said.get("src", "/dev/urandom") in ("/dev/urandom", "/dev/random", ""):
        said.pop("src", "")
    _rest(taking, option, said)


def _balloon(taking: Taking, option: Option, said: dict[str, str]) -> None:
    table: Table = {}
    for key in ("free_page_reporting", "deflate_on_oom"):
        if key in said:
            table[key] = switch(said.pop(key))
    if said.get("size") == "0":
        said.pop("size")
    taking.put("balloon", table or True)
    _rest(taking, option, said)


def _character(taking: Taking, option: Option, said: dict[str, str]) -> None:
    key = {"debug-console": "debugcon"}.get(option.name, option.name)
    mode = next((word for word in said if word in MODES), "")
    if mode:
        taking.put(key, mode)
        said.pop(mode)
    for form in ("file", "socket"):
        if form in said:
            taking.put(key, {form: said.pop(form)})
    _rest(taking, option, said)


def _switched(taking: Taking, option: Option, said: dict[str, str]) -> None:
    taking.put(option.name, True)
    if option.name == "watchdog":
        taking.remark("the watchdog is a 6300ESB here, whose driver in the guest is i6300esb")


READERS: dict[str, Callable[[Taking, Option, dict[str, str]], None]] = {
    "cpus": _cpus, "memory": _memory, "disk": _disk, "net": _net, "fs": _fs, "device": _device,
    "pmem": _pmem, "vsock": _vsock, "rng": _rng, "balloon": _balloon, "serial": _character,
    "console": _character, "debug-console": _character, "watchdog": _switched, "pvpanic": _switched,
}  # fmt: skip
