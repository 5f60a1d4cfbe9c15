"""Fuzz target: any guest against every virtio device and the PCI bus, on byte arrays; the disk's rings are
served by its native threads.

    python -m tests.fuzz.virtio_machine [SECONDS]      with atheris if it is installed

The input is a little program of a hostile guest: writes to configuration space and BARs,
bytes poked into rings, well-formed requests, doorbells, events of the host, time, resets.
Whatever it does, no exception leaves the bus, mappings stay inside their windows and apart,
and a reset always ends.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from runner.devices import (
    i6300esb,
    virtio_balloon,
    virtio_blk,
    virtio_console,
    virtio_net,
    virtio_pmem,
    virtio_rng,
    virtio_vsock,
)
from runner.wire import virtio
from runner.wire import virtio_blk as blk
from runner.wire import virtio_console as console
from runner.wire import virtio_vsock as vsock
from tests.unit import (
    test_virtio_balloon,
    test_virtio_console,
    test_virtio_net,
    test_virtio_rng,
    test_virtio_vsock,
)
from tests.unit import (
    test_virtio_pmem as pmem,
)
from tests.unit.served_disk import NativeMemory, ServedDisk
from tests.unit.virtio_driver import IO, MMIO, Attachment, Driver, Memory, placed

SMALL_RAM = 1 << 18
REGISTERS = 0x4000


class Input:
    """Numbers out of bytes; zeros at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def number(self, size: int) -> int:
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "little")

    def choose(self, options: list[Any]) -> Any:
        return options[self.number(1) % len(options)]


class Machine:
    """One device with its driver, started, and the host's events for it."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.events: list[Callable[[Input], None]] = []
        self.memory: Memory = NativeMemory(SMALL_RAM) if kind & 7 == 1 else Memory(SMALL_RAM)
        self._disk: ServedDisk | None = None
        module, name, options, backends = self._device(kind)
        self.at = Attachment(backends, self.memory)
        claim = module.claim(name, options)
        if claim.regions:
            claim = claim._replace(regions=(claim.regions[0]._replace(start=1 << 33),))
        node = placed(module.__name__.rpartition(".")[2], name, "", options, claim, intx=bool(kind & 8))
        self.driver = Driver(module.build(node, self.at), self.at, msix=not kind & 8)
        self.driver.start()

    def _device(self, kind: int) -> tuple[Any, str, dict[str, Any], dict[str, Any]]:
        match kind & 7:
            case 0:
                return virtio_rng, "rng", {}, {"rng": test_virtio_rng.Counting()}
            case 1:
                assert isinstance(self.memory, NativeMemory)
                disk = self._disk = ServedDisk(self.memory, queues=2)
                self.events += [lambda _: disk.turn(), lambda data: self._image_changes(disk, data)]
                return virtio_blk, "disk", {"queues": 2}, {"disk": disk}
            case 2:
                lines = [test_virtio_console.Line() for _ in range(2)]
                self.events += [lambda data: self._type(data.choose(lines), data)]
                options = {"ports": [{"name": "agent", "mode": "null"}]}
                return virtio_console, "console", options, {"console": lines[0], "console.agent": lines[1]}
            case 3:
                net = test_virtio_net.Net(2)
                self.events += [lambda data: self._frame(net.queues[data.number(1) & 1], data)]
                options = {"backend": "tap", "mac": test_virtio_net.MAC, "queues": 2}
                return virtio_net, "net", options, {"net": net, "net.vhost": None}
            case 4:
                dialler = test_virtio_vsock.Dialler()
                dialler.listening = {port: test_virtio_vsock.Stream() for port in range(3)}
                self.events += [lambda data: self._stream(dialler, data)]
                options = {"cid": test_virtio_vsock.CID, "socket": "s"}
                return virtio_vsock, "vsock", options, {"vsock": dialler}
            case 5:
                return virtio_balloon, "balloon", {}, {"balloon": test_virtio_balloon.Advisor()}
            case 6:
                file = pmem.File()
                self.events += [lambda data: self._flushed(file, data)]
                return virtio_pmem, "pmem", {"size": pmem.SIZE}, {"pmem": file}
        return virtio_rng, "rng", {}, {"rng": test_virtio_rng.Counting()}

    # ---- what the host does

    @staticmethod
    def _image_changes(disk: ServedDisk, data: Input) -> None:
        """Somebody truncates it, or it is whole again."""
        os.truncate(disk.file.fileno(), disk.capacity - 512 * (data.number(1) % 64))

    @staticmethod
    def _type(line: test_virtio_console.Line, data: Input) -> None:
        line.type(bytes(data.number(1) & 63))

    @staticmethod
    def _frame(frames: test_virtio_net.Frames, data: Input) -> None:
        frames.room = data.number(1)
        if frames.writable and frames.room:
            frames.writable()
        frames.arrive(bytes(12 + data.number(1) * 4))

    @staticmethod
    def _stream(dialler: test_virtio_vsock.Dialler, data: Input) -> None:
        stream = dialler.listening[data.number(1) % 3]
        stream.broken, stream.ended = data.number(1) & 7 == 7, data.number(1) & 7 == 7
        stream.room = data.number(2)
        stream.arrive(bytes(data.number(1)))
        if stream.writable:
            stream.writable()
        if data.number(1) & 1:
            dialler.connection(data.number(1), test_virtio_vsock.Stream(), lambda _port: None)

    @staticmethod
    def _flushed(file: pmem.File, data: Input) -> None:
        if file.flushes:
            file.flushes.pop(0)(errno.EIO if data.number(1) & 1 else 0)

    # ---- what the guest does

    def step(self, data: Input) -> None:
        data.choose([
            self._configure, self._write_bar, self._write_bar, self._poke, self._poke,
            self._request, self._request, self._request, self._kick, self._event, self._restart, self._time,
        ])(data)  # fmt: skip
        self._check()

    def _configure(self, data: Input) -> None:
        size = data.choose([1, 2, 4])
        self.driver.config_write(data.number(1), size, data.number(size))
        self.driver.config_read(data.number(1), size)

    def _write_bar(self, data: Input) -> None:
        bar, size = data.choose([0, 0, 0, 2]), data.choose([1, 2, 4, 8])
        offset = data.number(1) if data.number(1) & 1 else data.number(2) % REGISTERS
        self.driver.bar_write(bar, offset, size, data.number(size))
        self.driver.bar_read(bar, offset, size)

    def _poke(self, data: Input) -> None:
        queue = data.choose(list(self.driver.queues.values()))
        base, length = data.choose([(queue.descriptors, 64), (queue.driver, 24), (queue.device, 24)])
        value = data.number(4).to_bytes(4, "little")
        self.driver.memory.write(base + data.number(1) % length, value)

    def _request(self, data: Input) -> None:
        """Mostly what the device expects: a header that makes sense, some data, and room."""
        queue = data.choose(list(self.driver.queues.values()))
        parts = []
        if data.number(1) & 7:
            header = self._header(data)
            self.driver.memory.write(SMALL_RAM // 2, header)
            parts.append((SMALL_RAM // 2, len(header), False))
        for _ in range(data.number(1) % 4):
            address = SMALL_RAM // 2 + 64 + data.number(2)
            length = data.choose([0, 1, 16, 44, 45, 512, 512, 512, 4096, 4096, 1 << 20])
            parts.append((address, length, bool(data.number(1) & 1)))
        if data.number(1) & 7:
            parts.append((SMALL_RAM // 2 + 64, data.choose([1, 4, 64, 2048]), True))
        if parts and len(queue.free) >= len(parts):
            queue.add(*sorted(parts, key=lambda part: part[2]))
            self.driver.built.transport.notify(queue.number)
            queue.used()

    def _header(self, data: Input) -> bytes:
        match self.kind & 7:
            case 1:
                return blk.HEADER.pack(data.choose([0, 1, 4, 8, 11, 13, data.number(1)]), 0, data.number(1))
            case 2:
                return console.CONTROL.pack(data.number(1) & 3, data.number(1) & 7, data.number(1) & 1)
            case 3:
                return data.choose([bytes(12), b"\4\0\2\0", data.number(12).to_bytes(12, "little")])
            case 4:
                ports = 1000 + (data.number(1) & 3), data.number(1) & 3
                length = data.choose([0, 0, 1, 512])
                credit = data.choose([0, 1, 65536, 2**32 - 1]), data.choose([0, 0, 1, 2**32 - 1])
                cid = data.choose([test_virtio_vsock.CID] * 7 + [0])
                op = data.choose([1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 9])
                return vsock.Header(cid, 2, *ports, length, 1, op, data.number(1) & 3, *credit).pack()
            case 5:
                return b"".join(data.number(1).to_bytes(4, "little") for _ in range(4))
        return data.choose([bytes(4), data.number(8).to_bytes(8, "little")])

    def _kick(self, data: Input) -> None:
        self.driver.built.transport.notify(data.number(1) % 8)

    def _event(self, data: Input) -> None:
        if self.events:
            data.choose(self.events)(data)

    def _restart(self, data: Input) -> None:
        if data.number(1) & 1:
            self.driver.bus.reset()
        for event in self.events:
            event(Input(b""))
        self.driver.next_free = 0x1000
        self.driver.status = 0
        if self.driver.status == 0:
            self.driver.start()

    def _time(self, data: Input) -> None:
        self.at.clock.now += data.number(2) * 1_000_000
        self.at.loop.run(self.at.clock.now)

    def close(self) -> None:
        """Its threads end."""
        if self._disk is not None and isinstance(self.memory, NativeMemory):
            self._disk.close()
            self.memory.close()

    # ---- what always holds

    def _check(self) -> None:
        for bar in self.driver.function.bars.values():
            mapped = self.driver.mapper.mapped.get((self.driver.function.name, bar.index))
            assert mapped == bar.mapped
            if mapped is not None:
                window = IO if bar.space == "io" else MMIO
                assert window.start <= mapped
                assert mapped + bar.size <= window.start + window.size
        status = self.driver.built.transport.status
        if status & virtio.DRIVER_OK:
            assert status & virtio.FEATURES_OK


class Watchdog:
    """The device that is none of virtio's, with the same kind of guest."""

    def __init__(self) -> None:
        self.at = Attachment()
        options = {"action": "reset"}
        node = placed("i6300esb", "w", "", options, i6300esb.claim("w", options), intx=False)
        self.device = i6300esb.build(node, self.at)

    def close(self) -> None:
        """Nothing of it lives on."""

    def step(self, data: Input) -> None:
        size = data.choose([1, 2, 4])
        if data.number(1) & 1:
            self.device.function.write_config(data.number(1), size, data.number(size))
        else:
            self.device.write(data.number(1) & 15, size, data.choose([0x80, 0x86, data.number(size)]))
        self.at.clock.now += data.number(2) * 1_000_000
        self.at.loop.run(self.at.clock.now)
        assert len(self.at.loop.timers) < 1 << 12


def one_input(data: bytes) -> None:
    """Run one program of the guest."""
    program = Input(data)
    kind = program.number(1)
    machine: Machine | Watchdog = Watchdog() if kind == 255 else Machine(kind)
    try:
        while not program.over:
            machine.step(program)
    finally:
        machine.close()


def main(seconds: float, target: Callable[[bytes], None] = one_input) -> None:
    """Fuzz ``target`` for so long; an input that fails is printed by who found it."""
    try:
        import atheris
    except ImportError:
        _with_hypothesis(seconds, target)
        return
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=2000"], target)
    atheris.Fuzz()


def _with_hypothesis(seconds: float, target: Callable[[bytes], None]) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    end, count = time.monotonic() + seconds, 0

    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=1500))
    def batch(data: bytes) -> None:
        nonlocal count
        count += 1
        target(data)

    while time.monotonic() < end:
        batch()
    print(f"{count} inputs, nothing found")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
