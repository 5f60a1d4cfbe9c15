"""vsock by the host's kernel, whose ioctls are written down here instead of being made."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from runner.backends import vhost_vsock
from runner.devices.ports import OffloadedQueue
from runner.engine.protocol import Resources
from runner.errors import HostError, HostPermissionError
from runner.graph.model import BackendClaim
from runner.wire import virtio
from tests.unit.served_machine import Attachment, Bell, Machine

CLAIM = BackendClaim("vsock", "vhost-vsock", {"cid": 7})


class Kernel:
    """VhostDevice."""

    features = virtio.F_VERSION_1 | virtio.F_ACCESS_PLATFORM
    refuses = 0

    def __init__(self, fd: int, ram: Any) -> None:
        self.did: list[tuple[Any, ...]] = []

    def own(self) -> None:
        self.did.append(("own",))

    def set_cid(self, cid: int) -> None:
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        self.did.append(("cid", cid))

    def set_features(self, features: int) -> None:
        self.did.append(("features", features))

    def set_queue(self, index: int, queue: Any, kick: int, call: int) -> None:
        self.did.append(("queue", index))

    def drop_queue(self, index: int) -> None:
        self.did.append(("drop", index))

    def set_running(self, running: bool) -> None:
        self.did.append(("running", running))


@pytest.fixture
def machine() -> Machine:
    return Machine()


def attached(machine: Any, monkeypatch: pytest.MonkeyPatch, refuses: int = 0) -> Any:
    monkeypatch.setattr(vhost_vsock, "VhostDevice", Kernel)
    monkeypatch.setattr(Kernel, "refuses", refuses)
    backend: Any = vhost_vsock.attach(CLAIM, Resources({"vsock": -1}), machine)
    backend.join(Attachment())
    return backend


def queues() -> list[Any]:
    return [OffloadedQueue(n, 64, 0x1000, 0x2000, 0x3000, n, Bell(), lambda: None) for n in (0, 1)]  # type: ignore[arg-type]


def test_rings_come_before_the_start_and_go_after_the_stop(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = attached(machine, monkeypatch)
    backend.start(virtio.F_VERSION_1, queues())
    stopped: list[bool] = []
    backend.stop(lambda: stopped.append(True))
    assert backend._device.did == [
        ("own",), ("cid", 7), ("features", virtio.F_VERSION_1), ("queue", 0), ("queue", 1), ("running", True),
        ("running", False), ("drop", 0), ("drop", 1),
    ]  # fmt: skip
    assert stopped == [True]
    backend.close()
    assert backend._device.did[-1] == ("drop", 1), "what does not run is not stopped a second time"


def test_the_guest_is_not_offered_an_iommu_that_nobody_emulates(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not attached(machine, monkeypatch).features & virtio.F_ACCESS_PLATFORM


def test_a_context_id_that_is_taken_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="context id 7 is another guest's"):
        attached(machine, monkeypatch, errno.EADDRINUSE)


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [(errno.ENOENT, HostError, "modprobe vhost_vsock"), (errno.EACCES, HostPermissionError, "usermod")],
)
def test_a_kernel_that_has_none_is_told_with_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, error: int, kind: type[HostError], hint: str
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind) as raised:
        vhost_vsock.open_host(CLAIM, None)  # type: ignore[arg-type]
    assert hint in raised.value.hint
    assert "vsock.socket" in raised.value.hint
