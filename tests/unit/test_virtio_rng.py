"""virtio-rng through its PCI function, from capabilities to random bytes."""

from __future__ import annotations

from runner.devices import virtio_rng
from runner.wire import virtio
from tests.unit.virtio_driver import Attachment, Driver, placed


class Counting:
    """EntropySource whose bytes can be told apart."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def read(self, count: int) -> bytes:
        self.asked.append(count)
        return b"\xa5" * count


def machine(*, msix: bool = True) -> tuple[Driver, Counting]:
    source = Counting()
    at = Attachment({"rng": source})
    node = placed("virtio_rng", "rng", "rng", {}, virtio_rng.claim("rng", {}), intx=not msix)
    return Driver(virtio_rng.build(node, at), at, msix=msix).start(), source


def test_a_request_is_filled_and_signalled() -> None:
    """All writable buffers of a chain are filled, and the queue's vector fires once."""
    driver, _ = machine()
    one, two = driver.writable(10), driver.writable(6)
    assert driver.request(0, one, two) == [(0, 16)]
    assert driver.memory.read(one[0], 10) + driver.memory.read(two[0], 6) == b"\xa5" * 16
    assert driver.at.messages.fired == [1]


def test_a_request_is_capped_at_64_kib() -> None:
    """Device-bugs 15: an enormous request costs 64 KiB and no more."""
    driver, source = machine()
    assert driver.request(0, driver.writable(500_000)) == [(0, 65536)]
    assert source.asked == [65536]


def test_without_msix_the_interrupt_is_a_level_until_the_isr_is_read() -> None:
    """§4.1.5.2: INTx rises with the ISR's queue bit and falls when the ISR is read."""
    driver, _ = machine(msix=False)
    driver.request(0, driver.writable(8))
    assert driver.at.line.level
    assert driver.isr() == virtio.ISR_QUEUE
    assert not driver.at.line.level
    assert driver.isr() == 0


def test_a_write_only_device_ignores_what_is_readable() -> None:
    """A chain without writable bytes comes back with nothing written."""
    driver, _ = machine()
    assert driver.request(0, driver.readable(b"seed")) == [(0, 0)]


def test_in_words_of_qemu() -> None:
    """The same device for the qemu engine, modern only, at its slot."""
    node = placed("virtio_rng", "rng", "rng", {}, virtio_rng.claim("rng", {}), intx=False)
    words = virtio_rng.qemu(node)[-1]
    assert words.startswith("virtio-rng-pci,")
    assert words.endswith("bus=pcie.0,addr=05.0")
