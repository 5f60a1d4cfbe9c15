"""May this function of the host be lent to a guest: which one is meant, and what stands against it.

Pure: a definition's words and :class:`~runner.hostfacts.HostFacts` in, functions and findings out.
:mod:`runner.host.passthrough` does what is decided here (docs/decisions/0007-rooms.md).
"""
