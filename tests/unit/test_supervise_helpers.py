"""Helper programs of a running guest: what they say is told, their loss ends what needs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runner.supervisor.helper_watch import MOST_LINES, HelperWatch
from runner.supervisor.loop import Loop


class Helper:
    """A helper whose words and death a test decides."""

    owner, program = "disks.root", "qemu-storage-daemon"

    def __init__(self, fatal: bool) -> None:
        self.fatal = fatal
        self.errors, self.say = os.pipe2(os.O_NONBLOCK)
        self.pidfd, self.die = os.pipe2(os.O_NONBLOCK)
        self.ended = False

    def read(self) -> list[str]:
        try:
            return os.read(self.errors, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def has_ended(self) -> bool:
        return self.ended

    def how_it_ended(self) -> str:
        return "qemu-storage-daemon was killed by SIGKILL"

    def end(self) -> None:
        self.ended = True
        os.close(self.die)


class Watched:
    """One helper, watched."""

    def __init__(self, fatal: bool) -> None:
        self.helper = Helper(fatal)
        self.loop = Loop()
        self.told: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.over = False
        HelperWatch(
            self.helper,  # type: ignore[arg-type]
            self.loop,
            lambda level, words, **fields: self.told.append((level, words)),
            lambda: self.over,
            self.lost.append,
        )

    def turn(self) -> None:
        self.loop.after(0, lambda: None)
        self.loop.turn()


@pytest.fixture(params=[True, False])
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    made = Watched(request.param)
    yield made
    for fd in (made.helper.errors, made.helper.say, made.helper.pidfd):
        os.close(fd)
    if not made.helper.ended:
        os.close(made.helper.die)


def test_what_a_helper_says_is_told_with_its_device_and_not_without_end(watched: Watched) -> None:
    os.write(watched.helper.say, b"no space\n" * (MOST_LINES + 10))
    watched.turn()
    assert watched.told == [("warning", "qemu-storage-daemon (disks.root): no space")] * MOST_LINES


def test_a_helper_that_dies_is_told_and_takes_the_guest_along_only_if_it_is_needed(watched: Watched) -> None:
    watched.helper.end()
    watched.turn()
    words = "disks.root: qemu-storage-daemon was killed by SIGKILL"
    assert watched.told == [("error", words)]
    assert watched.lost == ([words] if watched.helper.fatal else [])


def test_a_helper_that_ends_after_its_guest_is_no_news(watched: Watched) -> None:
    watched.over = True
    watched.helper.end()
    watched.turn()
    assert (watched.told, watched.lost) == ([], [])
