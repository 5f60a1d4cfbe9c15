"""A plan as a QEMU command that runs by itself: files and interfaces by name, not by descriptor.

The engine ``qemu`` starts QEMU with descriptors that a supervisor holds; this is for people who
want to run the same machine without vmrun.  What then is missing is told, a sentence each.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.engine.qemu.arguments import PROGRAM, boot_words, device_words
from runner.engine.qemu.machine import cpu_words, machine_words, memory_words
from runner.graph.model import BackendClaim, BootFiles, Graph
from runner.graph.qemu_words import escaped, identifier
from runner.typed import Mapping, NamedTuple

CHARACTERS = {"tty": "stdio,signal=off", "pty": "pty", "null": "null"}
HYBRID = (
    "the guest's sockets lead to the kernel's vsock, not to the Unix socket of the file: QEMU has no other"
)
OF_VMRUN = {"exit_port": "the guest's exit status is not handed over: QEMU's own status is not the guest's"}


class Exported(NamedTuple):
    """The words of a command, in groups that belong together, and what it lacks."""

    groups: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def command(graph: Graph, files: BootFiles) -> Exported:
    """The command for a graph that was planned for the engine ``qemu``."""
    notes: list[str] = []
    groups = [
        (PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot"),
        ("-display", "none"),
        ("-name", f"guest={escaped(graph.name)}"),
        *_pairs(machine_words(graph)),
        *_pairs(cpu_words(graph)),
        *_pairs(memory_words(graph.memory)),
        *_pairs(boot_words(graph, files)),
    ]
    nodes = sorted(graph.nodes, key=lambda node: not (node.claim.pci and node.claim.pci.bridge))
    for node in nodes:
        if node.kind in OF_VMRUN:
            notes.append(OF_VMRUN[node.kind])
            continue
        vhost = any(claim.kind == "vhost-net" for claim in node.claim.backends)
        for claim in node.claim.backends:
            groups += _backend(claim, vhost, notes)
        groups += _pairs(list(device_words(node, graph)))
    if graph.timeout is not None:
        notes.append(f"no deadline: `timeout {graph.timeout:g}` before the command is one")
    return Exported(tuple(groups), tuple(notes))


def _pairs(words: list[str]) -> list[tuple[str, ...]]:
    """Each option with its value."""
    found: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("-") or not found:
            found.append((word,))
        else:
            found[-1] = (*found[-1], word)
    return found


def _backend(claim: BackendClaim, vhost: bool, notes: list[str]) -> list[tuple[str, ...]]:
    options, name = claim.options, identifier(claim.name)
    match claim.kind:
        case "char":
            return [("-chardev", _character(name, options))]
        case "block":
            return [("-drive", _drive(name, options))]
        case "scratch":
            notes.append(f"{claim.name}: an empty disk that forgets what is written")
            return [("-blockdev", f"null-co,node-name={name},size={options['blank']},read-zeroes=on")]
        case "tap":
            return [("-netdev", _tap(name, options, vhost, notes))]
        case "passt":
            return [("-netdev", f"user,id={name}{_forwards(options)}")]
        case "hybrid-vsock":
            notes.append(f"{claim.name}: {HYBRID}")
        case "virtiofs":
            socket = f"{name}.socket"
            shared = _path(options.get("path"))
            server = f"virtiofsd --socket-path={socket} --shared-dir={shared}"
            notes.append(f"{claim.name}: start `{server}` first")
            return [("-chardev", f"socket,id={name},path={socket}")]
    return []


def _path(value: Json) -> str:
    return str(value["resolved"]) if isinstance(value, dict) else str(value)


def _character(name: str, options: Mapping[str, Json]) -> str:
    mode = str(options.get("mode"))
    if mode in CHARACTERS:
        kind, comma, rest = CHARACTERS[mode].partition(",")
        return f"{kind},id={name}{comma}{rest}"
    path = escaped(_path(options.get("path")))
    kind, rest = ("file", "") if mode == "file" else ("socket", ",server=on,wait=off")
    return f"{kind},id={name},path={path}{rest}"


def _drive(name: str, options: Mapping[str, Json]) -> str:
    words = f"if=none,id={name},format={options['format']},file={escaped(_path(options['path']))}"
    cache = str(options.get("cache", "writeback"))
    if options.get("direct") is True:
        cache = "directsync" if cache == "writethrough" else "none"
    words += f",cache={cache}"
    words += ",readonly=on" if options.get("readonly") is True else ""
    return words + (",snapshot=on" if options.get("ephemeral") is True else "")


def _tap(name: str, options: Mapping[str, Json], vhost: bool, notes: list[str]) -> str:
    tap = options.get("tap")
    if not tap:
        tap = "tap0"
        notes.append(f"{name}: vmrun would make an interface; this command wants tap0 to be there")
    queues = options.get("queues", 1)
    words = f"tap,id={name},ifname={tap},script=no,downscript=no"
    words += f",queues={queues}" if isinstance(queues, int) and queues > 1 else ""
    return words + (",vhost=on" if vhost else "")


def _forwards(options: Mapping[str, Json]) -> str:
    forwards = options.get("forwards", [])
    words = ""
    for one in forwards if isinstance(forwards, list | tuple) else ():
        assert isinstance(one, dict)
        place = f"{one.get('address', '')}:{one['host']}-:{one['guest']}"
        words += f",hostfwd={one.get('protocol', 'tcp')}:{place}"
    return words
