"""Why no engine runs a definition, as the error that ends the run before anything is fetched."""

from __future__ import annotations

from runner.definition.model import Definition
from runner.errors import DefinitionError, HostError, HostPermissionError, VmrunError
from runner.graph.engines import WITHOUT_FEATURE, complaints, not_offered
from runner.graph.model import Graph
from runner.hostfacts import HostFacts
from runner.supervisor.record import Request


def no_engine(request: Request, definition: Definition, graph: Graph, facts: HostFacts) -> VmrunError:
    """The definition's fault where no host could run it, and then with line and column; else this host's."""
    found = complaints(definition, request.engine or definition.engine)
    if found:
        from runner.definition.assembly import locate
        from runner.definition.findings import sorted_for
        from runner.definition.load import inspect
        from runner.definition.settings import parse

        said = tuple(parse(word) for word in request.settings)
        findings = locate(found, inspect(request.path, request.settings).assembly, said)
        words = f"{request.path}: no engine that may run it can, on any host"
        return DefinitionError(words, tuple(sorted_for(request.path, findings)))
    reasons = "; ".join(f"{engine}: {why}" for engine, why in graph.engine.reasons)
    locked = facts.kvm.present and not facts.kvm.accessible
    forbidden = locked and any(why == facts.kvm.why for _, why in graph.engine.reasons)
    kind = HostPermissionError if forbidden else HostError
    lesser = not_offered(definition.cpus.features, facts.kvm)
    hint = WITHOUT_FEATURE if lesser else "`vmrun doctor` says what is missing"
    return kind(f"no engine can run this here ({reasons})", hint=hint)
