"""One file per figure: what is measured, with which guest, and how."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from bench.session import Figure

NAMES = ("boot", "first_call", "commands", "disk", "net", "console", "memory", "idle", "many")
"""In the order in which they are measured and shown."""


def figure(name: str) -> Figure:
    """The module."""
    return cast(Figure, import_module(f"bench.figures.{name}"))
