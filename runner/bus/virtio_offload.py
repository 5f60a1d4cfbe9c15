"""A virtio device whose rings somebody else serves: vhost, vhost-user, or native code.

The transport stays ours (status, negotiation, queue set-up, reset); from DRIVER_OK to the
reset the other side reads the rings, hears the doorbells and raises the interrupts.
"""

from __future__ import annotations

import os

from runner.bus.virtio_device import Transport, VirtioModel
from runner.bus.virtqueue import SplitQueue
from runner.devices.ports import QueueOffload
from runner.typed import Callable, Mapping
from runner.wire import virtio


def hand_over(
    transport: Transport, offload: QueueOffload, features: int, queues: Mapping[int, SplitQueue]
) -> bool:
    """Let ``offload`` serve these queues; when it refuses one, it serves none: the device needs a reset."""
    offload.on_broken = transport.fail
    try:
        offload.start(features, [transport.offloaded(queues[number]) for number in sorted(queues)])
    except OSError as error:
        offload.stop(lambda: None)
        reason = os.strerror(error.errno) if error.errno else str(error)
        transport.log("error", "offload-refused", reason=reason)
        transport.fail(f"the queues could not be handed over: {reason}")
        return False
    return True


class OffloadedModel(VirtioModel):
    """Queues of these sizes, all or the first ``served`` of them offloaded."""

    def __init__(
        self,
        device_id: int,
        offload: QueueOffload,
        sizes: tuple[int, ...],
        features: int,
        served: int | None = None,
    ) -> None:
        self.device_id = device_id
        self.queue_sizes = sizes
        self.features = features & offload.features
        self.ring_features = virtio.RING_FEATURES & (offload.features | virtio.F_VERSION_1)
        self.offloaded_queues = frozenset(range(len(sizes) if served is None else served))
        self._offload = offload
        self._serving = False

    def activate(self, features: int, queues: Mapping[int, SplitQueue]) -> None:
        """Hand over the queues that the driver enabled."""
        handed = {number: ring for number, ring in queues.items() if number in self.offloaded_queues}
        self._serving = hand_over(self.transport, self._offload, features, handed)

    def notify(self, queue: int) -> None:
        """The driver rang, and it was not the kernel who heard it."""
        if self._serving and queue in self.offloaded_queues:
            self._offload.kick(queue)

    def reset(self, done: Callable[[], None]) -> None:
        """Take the queues back."""
        if not self._serving:
            done()
            return
        self._serving = False
        self._offload.stop(done)
