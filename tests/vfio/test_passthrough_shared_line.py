"""A passed-through function on the same level-triggered line as a device of ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vfio.passing import READER, bindings, define, vmrun

pytestmark = pytest.mark.vfio

SHARED = """
[rng]
slot = "00:10.0"
[devices.reader]
driver = "vfio"
host = "{reader}"
slot = "00:18.0"
allow_no_reset = true
[initramfs]
modules = ["virtio_pci", "virtio_rng", "sdhci_pci", "mmc_block"]
run = \"\"\"
for i in $(seq 50); do true 2>/dev/null < /dev/mmcblk0 && break; sleep 0.1; done
dd if=/dev/urandom of=/w bs=64k count=32 2>/dev/null
(dd if=/dev/hwrng bs=16 count=3000 2>/dev/null | wc -c >/entropy) &
dd if=/w of=/dev/mmcblk0 bs=64k conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/mmcblk0 bs=64k count=32 2>/dev/null | cmp - /w && echo equal
wait
cat /entropy
grep IO-APIC /proc/interrupts
\"\"\"
"""


def test_a_card_reader_shares_its_line_with_an_emulated_device(tmp_path: Path) -> None:
    """Eight slots apart and both at work: neither loses an interrupt to the other, and none storms."""
    file = define(tmp_path, SHARED.format(reader=READER))
    words = ("--engine", "kvm", "--set", 'cmdline="console=ttyS0 quiet pci=nomsi"')
    ran = vmrun(file, tmp_path, *words)
    assert ran.status == 0, ran.said + ran.guest
    assert "equal" in ran.guest
    assert "48000" in ran.guest
    line = next(line for line in ran.guest.splitlines() if "mmc" in line)
    assert "virtio" in line, ran.guest
    (count,) = re.findall(r": +(\d+) ", line)
    assert 50 < int(count) < 50_000
    assert bindings(READER) == [("sdhci-pci", "")]
