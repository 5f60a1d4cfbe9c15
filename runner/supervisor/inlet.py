"""Bytes on their way in, read only while somebody can take them."""

from __future__ import annotations

import os
from errno import EAGAIN

from runner.supervisor.loop import Loop
from runner.typed import Callable

CHUNK = 4096


class Inlet:
    """Reads a descriptor when it is readable and wanted; the end of file is told once.

    ``on_end`` gets None at the end of file, else the error that ended it.  A blocking
    descriptor is fine: it is read only after poll has said that it has something.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_data: Callable[[bytes], None],
        on_end: Callable[[OSError | None], None],
        chunk: int = CHUNK,
    ) -> None:
        self.fd = fd
        self.ended = False
        self._loop = loop
        self._on_data = on_data
        self._on_end = on_end
        self._chunk = chunk
        self._wanted = False

    def want(self, wanted: bool) -> None:
        """Start or stop reading."""
        if self.ended or wanted == self._wanted:
            return
        self._wanted = wanted
        self._loop.on_readable(self.fd, self._read if wanted else None)

    def close(self) -> None:
        """Read no more; the descriptor is its owner's to close."""
        self.want(False)
        self.ended = True

    def _read(self) -> None:
        try:
            data = os.read(self.fd, self._chunk)
        except OSError as error:
            if error.errno == EAGAIN:
                return
            self.close()
            self._on_end(error)
            return
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_end(None)
