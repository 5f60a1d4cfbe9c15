"""Waiting until a descriptor takes bytes again, on an event loop that waits for readable ones only.

An epoll descriptor is itself readable while one of its own has something to say (epoll(7)).
"""

from __future__ import annotations

import select

from runner.devices.ports import EventLoop
from runner.light import suppress
from runner.typed import Callable


class Room:
    """Callbacks of descriptors that are full now; each is called once."""

    def __init__(self, loop: EventLoop) -> None:
        self._epoll = select.epoll()
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}

    def await_room(self, fd: int, callback: Callable[[], None]) -> None:
        """Call when ``fd`` takes bytes, or when its other end is gone."""
        if fd not in self._callbacks:
            self._epoll.register(fd, select.EPOLLOUT)
        if not self._callbacks:
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Wait no longer; call it before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(fd)
            if not self._callbacks:
                self._loop.remove_reader(self._epoll.fileno())

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            self.forget(fd)
            if callback is not None:
                callback()
