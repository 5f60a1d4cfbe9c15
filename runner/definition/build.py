"""The checked document as the frozen model that every later stage reads."""

from __future__ import annotations

from runner.definition.assembly import Assembly
from runner.definition.conform import Conformed
from runner.definition.findings import Path
from runner.definition.model import (
    CharBackend,
    CharPort,
    Cpus,
    Definition,
    DeviceEntry,
    Expect,
    FilePath,
    InitramfsBuild,
    InitramfsFile,
    InitramfsSource,
    KernelDeb,
    KernelFile,
    KernelSource,
    KernelUrl,
    Memory,
    NumaZone,
)
from runner.typed import Any

PLATFORM = ("serial", "console")
"""Keys whose device every machine's plan decides on; they are fields of the model, not entries."""


def build(conformed: Conformed, assembly: Assembly, words: tuple[str, ...]) -> Definition:
    """The definition; ``conformed`` has no errors.  ``words`` are those of ``--set``."""
    import hashlib
    import os

    value = conformed.value
    path = assembly.documents[0].path
    text = "\n".join((*(one.text for one in assembly.documents), *words))
    stem = os.path.basename(path).removesuffix(".toml")
    return Definition(
        name=value.get("name", stem),
        source=FilePath(path, os.path.abspath(path)),
        digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        kernel=_kernel(value["kernel"]),
        initramfs=_initramfs(value.get("initramfs")),
        cmdline=value["cmdline"],
        cpus=_cpus(value["cpus"]),
        memory=_memory(value["memory"]),
        serial=_character(value["serial"]),
        console=_character(value["console"]),
        engine=tuple([value["engine"]] if isinstance(value["engine"], str) else value["engine"]),
        timeout=value.get("timeout"),
        devices=tuple(_devices(conformed)),
        machine=_machine(value),
        expect=_expect(value.get("expect")),
        shorten_boot=tuple(value["shorten_boot"]),
        pieces=tuple((os.path.abspath(one.path), one.text) for one in assembly.documents[1:]),
    )


def _expect(value: dict[str, Any] | None) -> Expect | None:
    if value is None:
        return None
    console = tuple(value["console"])
    return Expect(console, value.get("reason"), value.get("status"), value["stop"])


def _machine(value: dict[str, Any]) -> dict[str, Any]:
    """Parts that only QEMU has; what is as by default is left out."""
    found = {"iommu": value["iommu"]} if "iommu" in value else {}
    return found | ({"accelerator": "kvm"} if value["accelerator"] == "kvm" else {})


def _file(value: dict[str, Any]) -> FilePath:
    return FilePath(value["text"], value["resolved"])


def _is_path(value: dict[str, Any]) -> bool:
    """A path after the schema; no table of ours has a key ``resolved``."""
    return "resolved" in value


def _kernel(value: dict[str, Any]) -> KernelSource:
    if _is_path(value):
        return KernelFile(_file(value))
    if "deb" in value:
        return KernelDeb(value["deb"], value.get("version"))
    return KernelUrl(value["url"], value["sha256"])


def _initramfs(value: dict[str, Any] | None) -> InitramfsSource | None:
    if value is None:
        return None
    if _is_path(value):
        return InitramfsFile(_file(value))
    return InitramfsBuild(
        modules=tuple(value["modules"]),
        files=tuple((guest, _file(host)) for guest, host in value["files"].items()),
        run=value.get("run"),
        busybox=_file(value["busybox"]) if "busybox" in value else None,
        root=value.get("root"),
    )


def _cpus(value: int | dict[str, Any]) -> Cpus:
    if isinstance(value, int):
        return Cpus(total=value, cores=value)
    topology = value.get("topology", {"cores": value["count"]})
    return Cpus(
        total=value["count"],
        sockets=topology.get("sockets", 1),
        cores=topology.get("cores", 1),
        threads=topology.get("threads", 1),
        model=value.get("model"),
        features=tuple(value["features"]),
        affinity=tuple(tuple(places) for places in value["affinity"]),
    )


def _memory(value: int | dict[str, Any]) -> Memory:
    if isinstance(value, int):
        return Memory(value)
    return Memory(
        size=value["size"],
        hugepages=value.get("hugepages"),
        shared=value["shared"],
        prefault=value["prefault"],
        merge=value["merge"],
        zones=tuple(NumaZone(zone["size"], tuple(zone["cpus"])) for zone in value["zones"]),
    )


def _character(value: str | dict[str, Any]) -> CharBackend:
    if isinstance(value, str):
        return CharBackend(value)
    if "ports" in value:
        return _console_with_ports(value)
    mode, place = next(iter(value.items()))
    return CharBackend(mode, _file(place))


def _console_with_ports(value: dict[str, Any]) -> CharBackend:
    """The device is there for its ports, even where the console itself is switched off."""
    ports = [(port["name"], _character(port["target"])) for port in value["ports"]]
    console = _character(value["target"])
    return CharBackend(
        "null" if console.mode == "off" else console.mode,
        console.path,
        tuple(CharPort(name, port.mode, port.path) for name, port in ports if port.mode != "off"),
    )


def _devices(conformed: Conformed) -> list[DeviceEntry]:
    """One entry a device, in the order of the file."""
    found = []
    for path, kind in conformed.kinds.items():
        options = device_options(conformed.value, path)
        if path[0] not in PLATFORM and options is not None:
            slot = options.pop("slot", None)
            found.append(DeviceEntry(str(path[0]), str(path[-1]), kind, options, slot))
    return found


def device_options(value: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """The table of a device; None when it is switched off (``rng = false``) or was not valid.

    The short forms become tables: ``true`` is one with every default, a character backend
    ``"tty"`` is ``{"mode": "tty"}`` and ``{file = …}`` is ``{"mode": "file", "path": …}``.
    """
    here: Any = value
    for part in path:
        if not isinstance(here, dict) or part not in here:
            return None
        here = here[part]
    if isinstance(here, bool):
        return {} if here else None
    if isinstance(here, str):
        return {"mode": here} if here != "off" else None
    if path == ("debugcon",):
        mode, place = next(iter(here.items()))
        return {"mode": mode, "path": place}
    return dict(here)
