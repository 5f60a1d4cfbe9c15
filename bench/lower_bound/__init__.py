"""The lower bound: ``vmm.c``, compiled when it is needed."""

from __future__ import annotations

import functools

from bench.native import compiled


@functools.cache
def program() -> str:
    """Path of the compiled VMM."""
    return compiled("lower_bound/vmm.c", "vmm")
