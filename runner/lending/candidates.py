"""Which of the host's functions could be lent, each asked as if a machine had it alone."""

from __future__ import annotations

from runner.hostfacts import HostFacts, PciFacts
from runner.lending.findings import Finding
from runner.lending.match import Request
from runner.lending.preflight import host_findings, preflight


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
