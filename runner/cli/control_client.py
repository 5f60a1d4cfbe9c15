"""The other end of a running machine's control socket (:mod:`runner.supervisor.control`)."""

from __future__ import annotations

import os

from runner.errors import HostError, HostIoError, UsageError
from runner.host import unix_socket
from runner.supervisor.registry import Live, live
from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_ANSWER = 65536


class Connection:
    """One connection; ``with`` closes it."""

    def __init__(self, machine: Live) -> None:
        self.name = machine.name
        try:
            self.fd = unix_socket.connect(machine.control)
        except FileNotFoundError:
            raise HostError(f"`{machine.name}` has no control socket (yet): it is being started") from None
        except ConnectionRefusedError:
            raise HostError(f"`{machine.name}` is ending") from None
        except OSError as error:
            raise HostIoError(f"cannot reach `{machine.name}`: {error.strerror}") from None
        self.rest = b""

    def ask(self, **request: object) -> Mapping[str, Any]:
        """The answer to one request.  Raises HostError when the machine refuses or hangs up."""
        import json

        os.write(self.fd, json.dumps(request).encode() + b"\n")
        answer = json.loads(self._line())
        if not answer.get("ok"):
            raise HostError(f"`{self.name}` refuses: {answer.get('error')}")
        found: Mapping[str, Any] = answer
        return found

    def wait_for_end(self) -> None:
        """Until the machine's run is over and its host restored: then the connection closes."""
        while self._read():
            pass

    def _line(self) -> bytes:
        while b"\n" not in self.rest:
            data = self._read()
            if not data or len(self.rest) > LONGEST_ANSWER:
                raise HostError(f"`{self.name}` has hung up: it is ending, or this is another user's machine")
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, 65536)
        except ConnectionResetError:
            return b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def find(name: str) -> Live:
    """The running machine of that name.  Raises UsageError that lists those that run."""
    machines = live()
    for machine in machines:
        if machine.name == name:
            return machine
    names = ", ".join(machine.name for machine in machines)
    raise UsageError(
        f"no machine named `{name}` runs", hint=f"these run: {names}" if names else "none runs: `vmrun ps`"
    )


def connect(name: str) -> Connection:
    """A connection to the running machine of that name."""
    return Connection(find(name))
