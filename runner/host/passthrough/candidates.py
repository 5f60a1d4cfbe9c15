"""Which of the host's functions could be lent, each asked as if a machine had it alone."""

from __future__ import annotations

from runner.host.facts import HostFacts, PciFacts
from runner.host.passthrough.findings import Finding
from runner.host.passthrough.match import Request
from runner.host.passthrough.preflight import host_findings, preflight


def candidates(
    facts: HostFacts,
) -> tuple[tuple[tuple[PciFacts, tuple[Finding, ...]], ...], tuple[Finding, ...]]:
    """(each function with what stands against it, what stands against all of them)."""
    common = tuple(host_findings(facts))
    rules = {one.rule for one in common}
    rows = []
    for function in facts.pci:
        found = preflight([Request("NAME", function)], facts)
        rows.append((function, tuple(one for one in found if one.rule not in rules)))
    return tuple(rows), common
