"""The guest's memory, and kernel and initramfs on their way into it.

Reading is the kernel's work and takes no lock of Python's, so it begins as soon as the job is known and
goes on while modules are imported and devices are built.
"""

from __future__ import annotations

import mmap
import os
from time import monotonic_ns

from runner.definition.model import Memory
from runner.devices.ports import GuestAddress
from runner.firmware import linux
from runner.firmware.entry import ACPI_AREA, CpuState
from runner.graph.model import BootFiles, Graph
from runner.graph.x86 import backing
from runner.host.memory import Ram
from runner.light import Thread


class Loading:
    """Of one machine; :meth:`finish` gives the state that CPU 0 starts in."""

    def __init__(self, graph: Graph, files: BootFiles) -> None:
        self._graph, self._files = graph, files
        self.ram = _memory(graph.memory)
        self._entry: CpuState | None = None
        self._fault: BaseException | None = None
        self.read_ns = 0  # CLOCK_MONOTONIC when kernel and initramfs were in memory
        self._reader = Thread(target=self._read_or_note, name="loader", daemon=True)
        self._reader.start()

    def finish(self) -> CpuState:
        """All is in memory, ACPI tables too.  Raises what kept it from that."""
        from runner.firmware import acpi

        tables = acpi.tables(self._graph)
        self._reader.join()
        if self._fault is not None:
            raise self._fault
        assert self._entry is not None, "the reader either finishes or says why not"
        self.ram.write(GuestAddress(tables.address), tables.data)
        return self._entry

    def _read_or_note(self) -> None:
        try:
            self._entry = self._read()
            self.read_ns = monotonic_ns()
        except BaseException as error:
            self._fault = error

    def _read(self) -> CpuState:
        """Kernel, initramfs and boot parameters into guest memory; where CPU 0 begins."""
        kernel = os.open(self._files.kernel, os.O_RDONLY | os.O_CLOEXEC)
        initramfs = (
            os.open(self._files.initramfs, os.O_RDONLY | os.O_CLOEXEC) if self._files.initramfs else -1
        )
        size = os.fstat(initramfs).st_size if initramfs >= 0 else 0
        regions = self._graph.regions
        with mmap.mmap(kernel, 0, prot=mmap.PROT_READ) as mapped:
            plan = linux.load_plan(
                mapped,
                initramfs_size=size,
                cmdline=self._graph.boot.cmdline.encode(),
                ram=[(r.start, r.size) for r in regions if r.kind == "ram"],
                rsdp=ACPI_AREA,
                reserved=[(r.start, r.size) for r in regions if r.kind in ("reserved", "ecam")],
            )
        for piece in plan.pieces:
            self.ram.load(kernel, piece.address, piece.size, piece.file_offset)
        if initramfs >= 0:
            self.ram.load(initramfs, plan.initramfs_address, size, 0)
            os.close(initramfs)
        os.close(kernel)
        for address, data in plan.blobs:
            self.ram.write(GuestAddress(address), data)
        return plan.entry


def _memory(memory: Memory) -> Ram:
    ram = Ram(backing(memory.size), shared=memory.shared, hugepages=memory.hugepages)
    if memory.prefault:
        ram.prefault()
    return ram
