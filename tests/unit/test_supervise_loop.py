"""The supervisor's loop: how long it sleeps."""

from __future__ import annotations

import os

from runner.supervisor.loop import LONGEST_POLL, Loop


def test_a_deadline_further_away_than_poll_counts_is_slept_for_in_parts() -> None:
    """30 days are more milliseconds than an int has; the loop still turns for a descriptor."""
    loop = Loop()
    reading, writing = os.pipe()
    rang, said = [], []
    loop.after(30 * 86400.0, lambda: rang.append("early"))
    loop.on_readable(reading, lambda: said.append(os.read(reading, 9)))
    os.write(writing, b"x")
    assert loop._patience() == LONGEST_POLL
    loop.turn()
    os.close(reading)
    os.close(writing)
    assert (said, rang) == ([b"x"], [])
