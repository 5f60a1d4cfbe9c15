"""Helper programs while the guest runs: what they say is told, and their death is met."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from runner.host.helper_process import Helper
    from runner.supervisor.endpoint import Tell
    from runner.supervisor.loop import Loop

MOST_LINES = 50
"""Lines that are told of one helper: a guest can make most of them talk without end."""


class HelperWatch:
    """One helper; ``lost(words)`` is called when one dies that the guest cannot be without.

    ``is_over`` says whether the guest has ended: then its helpers may end too.
    """

    def __init__(
        self,
        helper: Helper,
        loop: Loop,
        tell: Tell,
        is_over: Callable[[], bool],
        lost: Callable[[str], None],
    ) -> None:
        self._helper, self._loop, self._tell, self._is_over, self._lost = helper, loop, tell, is_over, lost
        self._left = MOST_LINES
        loop.on_readable(helper.errors, self._says)
        loop.on_readable(helper.pidfd, self._ended)

    def _says(self) -> None:
        lines = self._helper.read()
        for line in lines[: self._left]:
            self._tell("warning", f"{self._helper.program} ({self._helper.owner}): {line}")
        self._left -= min(len(lines), self._left)
        if not lines and self._helper.has_ended():
            self._loop.forget(self._helper.errors)

    def _ended(self) -> None:
        if not self._helper.has_ended():
            return
        for fd in (self._helper.pidfd, self._helper.errors):
            self._loop.forget(fd)
        if self._is_over():
            return
        words = f"{self._helper.owner}: {self._helper.how_it_ended()}"
        self._tell("error", words)
        if self._helper.fatal:
            self._lost(words)
