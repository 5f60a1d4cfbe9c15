"""virtio-console: one console, or a console and named ports (virtio 1.2 §5.3).

A driver waits for its output to be taken, with interrupts off, so each port's backend serves the
transmit queue itself, and takes output at once (device-bugs 16).  Input is taken only as far as the
driver has given buffers for it; the rest stays with the backend.

With a single port the console's size travels in the configuration space, which every
driver reads alike; the multiport message of old Linux has its two numbers swapped.
"""

from __future__ import annotations

from runner.bus import virtio_pci
from runner.bus.virtio_device import VirtioModel
from runner.bus.virtio_offload import hand_over
from runner.bus.virtqueue import SplitQueue, gather, scatter
from runner.definition.model import Json
from runner.devices.ports import ConsoleLine, LoggingAttachment
from runner.graph.model import BackendClaim, Claim, Node
from runner.graph.qemu_words import backend_id, device_id, escaped, place
from runner.typed import Callable, Final, Mapping, NamedTuple
from runner.wire import virtio
from runner.wire import virtio_console as wire

CLASS: Final = 0x078000
QUEUE_SIZE: Final = 64
MESSAGES_A_PORT: Final = 8  # waiting for control buffers; more only comes from a driver that floods


class PortPlan(NamedTuple):
    """A port besides the console: its name in the guest and its backend."""

    name: str
    backend: BackendClaim


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """Two queues for the console alone; two more for control and two a port otherwise."""
    console = {key: value for key, value in options.items() if key != "ports"}
    ports = _ports(name, options)
    backends = (BackendClaim(name, "char", console), *(port.backend for port in ports))
    return virtio_pci.claim(virtio.ID_CONSOLE, CLASS, _queues(len(backends)), backends)


def build(node: Node, at: LoggingAttachment) -> virtio_pci.VirtioPciFunction:
    """The function; each port writes to its backend and is fed from it."""
    names = ("", *(port.name for port in _ports(node.name, node.options)))
    lines: list[ConsoleLine] = [at.backend(claim.name) for claim in node.claim.backends]
    device = VirtioConsole(tuple(zip(names, lines, strict=True)))
    function = virtio_pci.VirtioPciFunction(node, at, device)
    for line, port in zip(lines, device.ports, strict=True):
        line.connect(port)
    return function


def qemu(node: Node) -> tuple[str, ...]:
    """``virtio-serial-pci`` with a ``virtconsole`` and a ``virtserialport`` a named port."""
    serial = device_id(node)
    ports = _ports(node.name, node.options)
    words = ["-device", f"virtio-serial-pci,{place(node)},disable-legacy=on,max_ports={len(ports) + 1}"]
    words += ["-device", f"virtconsole,bus={serial}.0,chardev={backend_id(node)}"]
    for number, port in enumerate(ports, start=1):
        name = escaped(port.name)
        words += [
            "-device",
            f"virtserialport,bus={serial}.0,nr={number},chardev={backend_id(node, number)},name={name}",
        ]
    return tuple(words)


def _ports(name: str, options: Mapping[str, Json]) -> tuple[PortPlan, ...]:
    """``ports = [{ name = …, mode = … }]``."""
    listed = options.get("ports") or []
    assert isinstance(listed, list)
    plans = []
    for entry in listed:
        assert isinstance(entry, dict)
        port = str(entry["name"])
        target = {key: value for key, value in entry.items() if key != "name"}
        plans.append(PortPlan(port, BackendClaim(f"{name}.{port}", "char", target)))
    return tuple(plans)


def _queues(ports: int) -> int:
    return 2 if ports == 1 else 2 + 2 * ports


class Port:
    """One byte stream between the driver and a backend (``CharDevice``)."""

    def __init__(self, name: str, line: ConsoleLine) -> None:
        self.name, self.line = name, line
        self.on_room: Callable[[], None] | None = None
        self.serving = False  # the line has the driver's transmit queue
        self.receive: SplitQueue | None = None  # live queue from the device to the driver
        self.open = True  # the driver's end
        self.guard: Callable[[Callable[[], None]], Callable[[], None]]

    def feed(self, data: bytes) -> int:
        """Input for the driver, as far as it has buffers."""
        taken = 0

        def fill() -> None:
            nonlocal taken
            taken = self._fill(data)

        self.guard(fill)()
        return taken

    def _fill(self, data: bytes) -> int:
        ring = self.receive
        if ring is None or not self.open:
            return 0
        taken = 0
        for chain in ring.chains() if data else ():
            written = scatter(chain.writable, memoryview(data)[taken:])
            ring.push(chain, written)
            taken += written
            if taken == len(data):
                break
        ring.interrupt()
        return taken

    def room(self) -> None:
        """The driver has given buffers."""
        if self.on_room is not None:
            self.on_room()


class VirtioConsole(VirtioModel):
    """The ports and, where there is more than one, the control queues (§5.3.6.2)."""

    device_id = virtio.ID_CONSOLE

    def __init__(self, ports: tuple[tuple[str, ConsoleLine], ...]) -> None:
        self.ports = tuple(Port(name, line) for name, line in ports)
        for port in self.ports:
            port.guard = self._guard
        self._multiport = len(ports) > 1
        self.queue_sizes = (QUEUE_SIZE,) * _queues(len(ports))
        self.offloaded_queues = frozenset(wire.transmit_queue(number) for number in range(len(ports)))
        self.features = wire.F_EMERG_WRITE | (wire.F_MULTIPORT if self._multiport else wire.F_SIZE)
        self._size = (0, 0)
        self._waiting: list[bytes] = []  # control messages without a buffer yet
        self._negotiated = False
        self._set_config()

    def _guard(self, work: Callable[[], None]) -> Callable[[], None]:
        return self.transport.guard(work)

    def _set_config(self) -> None:
        self.config = wire.CONFIG.pack(*self._size, len(self.ports), 0)

    def resize(self, columns: int, rows: int) -> None:
        """The console's terminal has another size."""
        self._size = (columns & 0xFFFF, rows & 0xFFFF)
        self._set_config()
        if self._negotiated:
            self._tell_size()
        elif not self._multiport:
            self.transport.config_changed()

    def _tell_size(self) -> None:
        if self._size != (0, 0):
            self._control(0, wire.RESIZE_EVENT, 0, wire.RESIZE.pack(*self._size))

    def write_config(self, offset: int, size: int, value: int) -> None:
        """An emergency write: one character, before any queue is there (§5.3.4)."""
        if offset == wire.EMERG_WRITE_OFFSET:
            self.ports[0].line.write(bytes((value & 0xFF,)))

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """Without MULTIPORT there is the console alone, open from the start."""
        super().activate(features, queues)
        self._negotiated = bool(features & wire.F_MULTIPORT)
        for number, port in enumerate(self.ports):
            if number == 0 or self._negotiated:
                port.receive = queues.get(wire.receive_queue(number))
                port.open = number == 0
                self._hand_over(port, features, wire.transmit_queue(number))
        if features & wire.F_SIZE and self._size != (0, 0):
            self.transport.config_changed()  # Linux reads the size when it changes, and not before

    def _hand_over(self, port: Port, features: int, queue: int) -> None:
        ring = self.queues.get(queue)
        if ring is not None:
            port.serving = hand_over(self.transport, port.line, features, {queue: ring})

    def reset(self, done: Callable[[], None]) -> None:
        """The lines let go of their queues, one after the other; nothing else is under way between calls."""
        self._waiting.clear()
        self._negotiated = False
        serving = [port for port in self.ports if port.serving]
        for port in self.ports:
            port.receive, port.serving = None, False

        def stop_next() -> None:
            if serving:
                serving.pop().line.stop(stop_next)
            else:
                VirtioModel.reset(self, done)

        stop_next()

    def flush(self) -> None:
        """The guest's last words."""
        for port in self.ports:
            port.line.flush()

    def notify(self, queue: int) -> None:
        """Even queues are towards the driver; output that was notified by another way is passed on."""
        number = wire.port_of(queue)
        if number is None or (number and not self._negotiated):
            if queue == wire.CONTROL_TX:
                self._read_control()
            elif queue == wire.CONTROL_RX:
                self._write_control()
        elif queue in self.offloaded_queues:
            if self.ports[number].serving:
                self.ports[number].line.kick(queue)
        else:
            self.queues[queue].arm()
            self.ports[number].room()

    # ---- control messages

    def _read_control(self) -> None:
        ring = self.queues[wire.CONTROL_TX]
        for chain in ring.chains():
            message = gather(chain.readable, wire.CONTROL.size)
            ring.push(chain)
            if len(message) == wire.CONTROL.size and self._negotiated:
                self._obey(*wire.CONTROL.unpack(message))
        ring.interrupt()

    def _obey(self, number: int, event: int, value: int) -> None:
        if event == wire.DEVICE_READY:
            for known in range(len(self.ports) if value else 0):
                self._control(known, wire.DEVICE_ADD, 1)
        elif number >= len(self.ports):
            return
        elif event == wire.PORT_READY and value:
            self._introduce(number)
        elif event == wire.PORT_OPEN:
            self.ports[number].open = bool(value)
            if value:
                self.ports[number].room()

    def _introduce(self, number: int) -> None:
        """What the driver needs to know of a port: console or name, and that the host's end is open."""
        if number == 0:
            self._control(0, wire.CONSOLE_PORT, 1)
            self._tell_size()
        else:
            self._control(number, wire.PORT_NAME, 1, self.ports[number].name.encode())
        self._control(number, wire.PORT_OPEN, 1)

    def _control(self, number: int, event: int, value: int, extra: bytes = b"") -> None:
        if len(self._waiting) < MESSAGES_A_PORT * len(self.ports):
            self._waiting.append(wire.CONTROL.pack(number, event, value) + extra)
        self._guard(self._write_control)()

    def _write_control(self) -> None:
        ring = self.queues.get(wire.CONTROL_RX)
        if ring is None:
            return
        while self._waiting:
            chain = ring.pop()
            if chain is None:
                if ring.arm():
                    continue
                break
            ring.push(chain, scatter(chain.writable, self._waiting.pop(0)))
        ring.interrupt()
