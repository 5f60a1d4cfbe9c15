"""What a machine with a passed-through device may not have beside it, and the author is told why."""

from __future__ import annotations

import pytest

from runner.definition.load import inspect_text

TEXT = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0"\nmemory = "256M"\n'
READER = '[devices.reader]\ndriver = "vfio"\nhost = "0000:00:05.0"\n'


@pytest.mark.parametrize("balloon", ["[balloon]\n", "[balloon]\nfree_page_reporting = false\n"])
def test_a_balloon_beside_a_passed_device_is_refused(balloon: str) -> None:
    (finding,) = inspect_text(TEXT + balloon + READER, "vm.toml").findings
    assert (finding.severity, finding.line) == ("error", 4)
    assert "`devices.reader`" in finding.message
    assert "DMA" in finding.message


@pytest.mark.parametrize("text", ["balloon = true\n", "balloon = false\n" + READER, READER])
def test_either_alone_is_fine(text: str) -> None:
    assert inspect_text(TEXT + text, "vm.toml").findings == ()


PMEM = '[pmem.{0}]\npath = "{0}.img"\nsize = "64M"\n'


def test_persistent_memory_beside_a_passed_device_is_refused() -> None:
    """Each of them; its pages are a file's, which the device's DMA would not find."""
    text = TEXT + PMEM.format("root") + PMEM.format("data") + READER
    findings = inspect_text(text, "vm.toml").findings
    assert [(one.severity, one.line) for one in findings] == [("error", 4), ("error", 7)]
    for one, name in zip(findings, ("root", "data"), strict=True):
        assert "`devices.reader`" in one.message
        assert "DMA" in one.message
        assert f"[disks.{name}]" in one.hint


def test_persistent_memory_alone_is_fine() -> None:
    assert inspect_text(TEXT + PMEM.format("root"), "vm.toml").findings == ()
