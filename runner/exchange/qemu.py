"""QEMU's command line as a definition (qemu-system-x86_64(1), version 7.2 and its neighbours).

What QEMU ties together by an id (``-drive`` and ``-device``, ``-netdev`` and ``-device``) is one
table here, so backends are gathered first and made to entries when all words are read.
"""

from __future__ import annotations

from runner.exchange.cloud_hypervisor import image_format
from runner.exchange.options import Option, doubled, options
from runner.exchange.taken import Imported, Table, Taking, name_of, switch
from runner.typed import Callable

PLAIN = {"kernel": "kernel", "initrd": "initramfs", "append": "cmdline"}
WITHOUT_MEANING = (
    "nodefaults", "no-user-config", "no-reboot", "display", "vga", "monitor", "daemonize", "S", "sandbox",
    "no-shutdown", "rtc", "global", "boot", "nographic", "mon", "qmp", "D", "d", "action",
)  # fmt: skip
"""About the program, its window and its monitor, none of which vmrun has."""

FRONTS = {
    "virtio-blk-pci": "disk", "virtio-blk": "disk", "virtio-net-pci": "net", "virtio-net": "net",
    "virtio-rng-pci": "rng", "virtio-rng": "rng",
    "virtio-balloon-pci": "balloon", "virtio-balloon": "balloon",
    "vhost-vsock-pci": "vsock", "i6300esb": "watchdog", "pvpanic": "pvpanic", "vfio-pci": "vfio",
    "nvme": "nvme", "e1000e": "e1000e", "qemu-xhci": "xhci", "pcie-root-port": "port",
}  # fmt: skip


def read(words: list[str]) -> Imported:
    """The machine that these words (after the program's name) start."""
    reading = _Reading()
    for option in options(words):
        reading.option(option)
    return reading.done()


class _Reading:
    def __init__(self) -> None:
        self.taking = Taking()
        self.drives: dict[str, dict[str, str]] = {}
        self.netdevs: dict[str, dict[str, str]] = {}
        self.fronts: list[tuple[str, dict[str, str]]] = []
        self.snapshot = False
        self.accelerator = "tcg"
        self.cpus: Table = {}

    def option(self, option: Option) -> None:
        """One option, gathered or put down."""
        value = option.values[0] if option.values else ""
        readers: dict[str, Callable[[str], None]] = {
            "m": self._memory, "smp": self._smp, "cpu": self._cpu, "drive": self._drive, "hda": self._hda,
            "netdev": self._netdev, "device": self._device, "virtfs": self._virtfs, "serial": self._serial,
            "name": self._name, "machine": self._machine, "M": self._machine, "accel": self._accel,
            "enable-kvm": self._kvm, "snapshot": self._throw_away, "nographic": self._nographic,
        }  # fmt: skip
        if option.name in PLAIN:
            self.taking.put(PLAIN[option.name], value)
        elif option.name in readers:
            readers[option.name](value)
        else:
            known = option.name in WITHOUT_MEANING
            self.taking.leave(_written(option), *(("it is about the program",) if known else ()))

    # -- the machine ------------------------------------------------------------------------

    def _memory(self, value: str) -> None:
        size = doubled(value, "size").get("size", "128M")
        self.taking.put("memory", f"{size}M" if size.isdecimal() else size.upper())

    def _smp(self, value: str) -> None:
        said = doubled(value, "cpus")
        shape: Table = {key: int(said[key]) for key in ("sockets", "cores", "threads") if key in said}
        product = 1
        for part in shape.values():
            product *= int(str(part))
        count = int(said.get("cpus", product))
        self.cpus["count"] = count
        if shape and product == count:
            self.cpus["topology"] = shape

    def _cpu(self, value: str) -> None:
        model, *features = value.split(",")
        if model not in ("host", "max", "qemu64", "kvm64"):
            self.cpus["model"] = model
        signed = [f if f[:1] in "+-" else _signed(f) for f in features if f]
        if signed:
            self.cpus["features"] = list(signed)

    def _name(self, value: str) -> None:
        self.taking.put("name", name_of(doubled(value, "guest").get("guest", ""), "guest"))

    def _machine(self, value: str) -> None:
        said = doubled(value, "type")
        if "accel" in said:
            self._accel(said["accel"].split(":")[0])
        if said.get("type", "q35") not in ("q35", "pc", "microvm"):
            self.taking.leave(f"-machine {said['type']}")

    def _accel(self, value: str) -> None:
        self.accelerator = doubled(value, "accel").get("accel", "tcg")

    def _kvm(self, _: str) -> None:
        self.accelerator = "kvm"

    def _throw_away(self, _: str) -> None:
        self.snapshot = True

    def _nographic(self, _: str) -> None:
        self.taking.put("serial", "tty")

    def _serial(self, value: str) -> None:
        kind, _, place = value.partition(":")
        modes = {"stdio": "tty", "mon": "tty", "null": "null", "none": "off", "pty": "pty"}
        if kind in modes:
            self.taking.put("serial", modes[kind])
        elif kind in ("file", "unix"):
            key = "socket" if kind == "unix" else "file"
            self.taking.put("serial", {key: place.partition(",")[0]})
        else:
            self.taking.leave(f"-serial {value}")

    # -- backends and the devices in front of them ------------------------------------------

    def _drive(self, value: str) -> None:
        said = doubled(value, "file")
        name = said.get("id", f"drive{len(self.drives)}")
        self.drives[name] = said
        if said.get("if", "ide") == "virtio":
            self.fronts.append(("disk", {"drive": name}))
        elif said.get("if", "ide") != "none":
            self.taking.remark(f"-drive {value}: there is no IDE here, so it is a virtio disk (/dev/vda)")
            self.fronts.append(("disk", {"drive": name}))

    def _hda(self, value: str) -> None:
        self._drive(f"file={value}")

    def _netdev(self, value: str) -> None:
        said = doubled(value, "type")
        said["forwards"] = "\0".join(p[8:] for p in value.split(",") if p.startswith("hostfwd="))
        self.netdevs[said.get("id", "")] = said

    def _device(self, value: str) -> None:
        said = doubled(value, "driver")
        kind = FRONTS.get(said["driver"])
        if kind is None:
            self.taking.leave(f"-device {value}")
        else:
            self.fronts.append((kind, said))

    def _virtfs(self, value: str) -> None:
        said = doubled(value, "type")
        tag = said.get("mount_tag", "host")
        entry: Table = {"driver": "9p", "path": said.get("path", "."), "tag": tag}
        if switch(said.get("readonly", "off")):
            entry["readonly"] = True
        self.taking.section("fs", name_of(tag, "fs"), entry)

    # -- together ---------------------------------------------------------------------------

    def done(self) -> Imported:
        """Every front with what is behind it."""
        if self.cpus:
            self.cpus = {"count": 1, **self.cpus}
            self.taking.put("cpus", self.cpus if len(self.cpus) > 1 else self.cpus["count"])
        self.taking.put("engine", ["kvm", "qemu"] if self.accelerator == "kvm" else "qemu")
        for kind, said in self.fronts:
            self._front(kind, said)
        for name in self.drives:
            self.taking.leave(f"-drive id={name}", "no device uses it")
        return self.taking.done()

    def _front(self, kind: str, said: dict[str, str]) -> None:
        name = said.get("id", "")
        match kind:
            case "disk":
                self._disk(said, {})
            case "net":
                self._net(said, name)
            case "nvme":
                self._disk(said, {"driver": "nvme"})
            case "vfio":
                entry: Table = {"driver": "vfio", "host": said.get("host", "")}
                self.taking.section("devices", name_of(name, "device"), entry)
            case "e1000e" | "xhci" | "port":
                driver = {"xhci": "qemu-xhci", "port": "pcie-root-port"}.get(kind, kind)
                self.taking.section("devices", name_of(name, kind), {"driver": driver})
            case "vsock":
                self.taking.put("vsock", {"cid": int(said.get("guest-cid", "3"))})
            case _:
                self.taking.put(kind, True)

    def _disk(self, said: dict[str, str], entry: Table) -> None:
        drive = self.drives.pop(said.get("drive", ""), {})
        path = drive.get("file", "")
        entry |= {"path": path, "format": image_format(path, drive.get("format", ""), self.taking)}
        if switch(drive.get("readonly", "off")):
            entry["readonly"] = True
        if self.snapshot or switch(drive.get("snapshot", "off")):
            entry["ephemeral"] = True
        if drive.get("cache") in ("none", "directsync") and "driver" not in entry:
            entry["direct"] = True
        if "serial" in said:
            entry["serial"] = said["serial"]
        section = "devices" if "driver" in entry else "disks"
        self.taking.section(section, name_of(said.get("id", said.get("drive", "")), "disk"), entry)

    def _net(self, said: dict[str, str], name: str) -> None:
        back = self.netdevs.get(said.get("netdev", ""), {})
        entry: Table = {"backend": "user" if back.get("type", "user") == "user" else "tap"}
        if "mac" in said:
            entry["mac"] = said["mac"]
        if "ifname" in back:
            entry["tap"] = back["ifname"]
        forwards = [f for f in map(_forward, back.get("forwards", "").split("\0")) if f]
        if forwards:
            entry["forwards"] = list(forwards)
        self.taking.section("net", name_of(name or said.get("netdev", ""), "net"), entry)


def _written(option: Option) -> str:
    return " ".join([f"-{option.name}", *option.values])


def _signed(feature: str) -> str:
    """``svm=on`` or ``svm`` as ``+svm``."""
    name, _, state = feature.partition("=")
    return f"{'+' if state in ('', 'on') else '-'}{name}"


def _forward(text: str) -> Table | None:
    """``tcp:127.0.0.1:2222-:22``."""
    here, _, there = text.partition("-")
    kind, _, rest = here.partition(":")
    address, _, port = rest.rpartition(":")
    guest = there.rpartition(":")[2]
    if not (port.isdecimal() and guest.isdecimal()):
        return None
    entry: Table = {"host": int(port), "guest": int(guest)}
    if kind == "udp":
        entry["protocol"] = "udp"
    if address:
        entry["address"] = address
    return entry
