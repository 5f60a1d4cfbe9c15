"""The lab's tests come back as if they had run here."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.guest


def test_this_runs_where_a_stock_kernel_can():
    """KVM is there, and it is no instruction emulator."""
    assert os.access("/dev/kvm", os.W_OK)
    assert not os.path.exists("/sys/module/kvm_pvm")
