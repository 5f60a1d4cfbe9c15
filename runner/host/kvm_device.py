"""Opening ``/dev/kvm``, apart from all that is done with it: the supervisor opens, the VM process uses."""

from __future__ import annotations

import os

from runner.errors import HostError, HostPermissionError


def open_kvm() -> int:
    """Open ``/dev/kvm``; the two ways it fails have two different mends."""
    try:
        return os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostError(
            "this host has no /dev/kvm",
            hint="modprobe kvm_intel (or kvm_amd); if it refuses, switch virtualization on in the firmware",
        ) from None
    except PermissionError:
        raise HostPermissionError(
            "/dev/kvm may not be opened by this user",
            hint="sudo usermod -aG kvm $USER, then log in again",
        ) from None
    except OSError as error:
        raise HostError(f"/dev/kvm cannot be opened: {error.strerror}") from None
