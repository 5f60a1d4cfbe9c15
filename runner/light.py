"""Small things of the standard library, for the way to a guest's first instruction.

``contextlib``, ``importlib``, ``signal``, ``heapq``, ``threading`` and ``collections`` bring
enumerations, warnings and each other with them: together more than the rest of a start
(docs/decisions/0046-start-without-typing.md).  What a run needs of them is here.  Type checkers
see the library's own; the rest of the program, which nobody waits for, imports those.
"""

from __future__ import annotations

import sys

from runner.typed import TYPE_CHECKING

__all__ = (
    "Event", "ExitStack", "MappingProxyType", "RLock", "SimpleNamespace", "Thread", "contextmanager", "deque",
    "heapify", "heappop", "heappush", "import_module", "signal", "suppress",
)  # fmt: skip

if TYPE_CHECKING:
    import signal
    from collections import deque
    from contextlib import ExitStack, contextmanager, suppress
    from heapq import heapify, heappop, heappush
    from importlib import import_module
    from threading import Event, RLock, Thread
    from types import MappingProxyType, SimpleNamespace
else:
    import _signal as signal  # without the enumerations: numbers are just numbers
    from _collections import deque
    from _heapq import heapify, heappop, heappush
    from _thread import RLock, allocate_lock, start_new_thread

    SimpleNamespace = type(sys.implementation)
    MappingProxyType = type(type.__dict__)

    def import_module(name):
        """The module itself, not the package it is in (as importlib.import_module, absolute names only)."""
        __import__(name)
        return sys.modules[name]

    class suppress:  # as contextlib calls it  # noqa: N801
        """A ``with`` that the named exceptions leave without harm."""

        def __init__(self, *kinds):
            self._kinds = kinds

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._kinds)

    class ExitStack:
        """What has to be undone, last thing first, whatever of it fails; the last failure is raised."""

        def __init__(self):
            self._undo = []

        def callback(self, undo):
            self._undo.append(undo)

        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            first = error
            while self._undo:
                try:
                    self._undo.pop()()
                except BaseException as failure:  # the others have to be called all the same
                    if failure.__context__ is None and failure is not error:
                        failure.__context__ = error
                    error = failure
            if error is not first:
                raise error
            return False

    class contextmanager:  # as contextlib calls it  # noqa: N801
        """A generator function that yields once, as what ``with`` takes."""

        def __init__(self, function):
            self._function = function
            self.__doc__ = function.__doc__
            self.__name__ = function.__name__

        def __get__(self, owner, kind=None):
            return self if owner is None else lambda *words, **named: self(owner, *words, **named)

        def __call__(self, *words, **named):
            return _Once(self._function(*words, **named))

    class _Once:
        """One use of it."""

        def __init__(self, generator):
            self._generator = generator

        def __enter__(self):
            return next(self._generator)

        def __exit__(self, kind, error, trace):
            if error is None:
                next(self._generator, None)
                return False
            try:
                self._generator.throw(error)
            except StopIteration as end:
                return end is not error
            except BaseException as raised:
                if raised is error:
                    return False
                raise
            raise RuntimeError("generator didn't stop after throw()")

    class Event:
        """A flag that threads wait for."""

        def __init__(self):
            self._changing = allocate_lock()
            self._waiting = []
            self._set = False

        def is_set(self):
            return self._set

        def set(self):
            with self._changing:
                self._set = True
                waiting, self._waiting = self._waiting, []
            for gate in waiting:
                gate.release()

        def clear(self):
            self._set = False

        def wait(self, timeout=-1.0):
            """Until it is set; False when that is not within ``timeout`` seconds."""
            with self._changing:
                if self._set:
                    return True
                gate = allocate_lock()
                gate.acquire()
                self._waiting.append(gate)
            if gate.acquire(timeout=timeout):
                return True
            with self._changing:
                if gate in self._waiting:
                    self._waiting.remove(gate)
                    return False
            return True

    class Thread:
        """A function that runs beside the others; the process does not wait for it."""

        def __init__(self, *, target, name, daemon):
            assert daemon, "only threads that end with the process"
            self._target = target
            self.name = name
            self._over = Event()

        def start(self):
            start_new_thread(self._run, ())

        def _run(self):
            try:
                self._target()
            finally:
                self._over.set()

        def join(self, timeout=-1.0):
            """Until the function has returned, or for ``timeout`` seconds."""
            self._over.wait(timeout)
