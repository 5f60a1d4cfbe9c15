"""What the planner refuses, as findings of ``vmrun check``: the net below all other checks.

A check of the definition knows the place of a fault; the planner, which meets it when everything is
laid out, knows its names only.  Whatever no check has told is told so, before a run ends with it.
"""

from __future__ import annotations

from runner.definition.findings import Complaint, Path
from runner.definition.model import Definition
from runner.errors import DefinitionError, HostError
from runner.graph import engines
from runner.graph.plan import plan
from runner.hostfacts import HostFacts


def refused(definition: Definition, facts: HostFacts) -> tuple[Complaint, ...]:
    """What cannot be laid out: an error where a run here would end with it, else a warning.

    A device that this host does not have is no fault of the definition.  An engine that lacks a part
    of it lays nothing out, and :mod:`runner.graph.engines` says why.
    """
    modules = engines.modules_of(definition)
    able = tuple(one for one in definition.engine if not engines.lacks(one, definition, modules))
    error = _fault(definition, facts, able) if able else None
    if error is not None:
        return (_complaint(definition, error, str(error), "error"),)
    found: dict[str, Complaint] = {}
    for engine in able:
        error = _fault(definition, facts, (engine,))
        if error is not None:
            words = f"the engine {engine} could not run this: {error}"
            found.setdefault(str(error), _complaint(definition, error, words, "warning"))
    return tuple(found.values())


def _fault(definition: Definition, facts: HostFacts, preference: tuple[str, ...]) -> DefinitionError | None:
    try:
        plan(definition, facts, engine=preference)
    except DefinitionError as error:
        return error
    except HostError:
        pass
    return None


def _complaint(definition: Definition, error: DefinitionError, words: str, severity: str) -> Complaint:
    place = _place(definition, str(error))
    return Complaint(place, "key", "layout", words, hint=error.hint, severity=severity)


def _place(definition: Definition, words: str) -> Path:
    """The first device that a sentence names; nothing, which is the start of the file, without one."""
    named: dict[int, Path] = {}
    for entry in definition.devices:
        path = (entry.section, entry.name)
        for name in (".".join(path), entry.name):
            if f"`{name}`" in words:
                named.setdefault(words.index(f"`{name}`"), path[:1] if path[0] == path[1] else path)
    return named[min(named)] if named else ()
