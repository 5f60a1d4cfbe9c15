"""A balloon and a passed-through device exclude each other, and the author is told why."""

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
