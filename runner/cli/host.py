"""``vmrun host``: the host's PCI functions, what can be passed through, and giving back by hand."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from runner.host.passthrough.recovery import Restored
    from runner.host.pci_names import PciNames
    from runner.hostfacts import HostFacts, PciFacts
    from runner.lending.findings import Finding

INCOMPLETE = 74
OPT_INS = ("no-reset", "bus-reset", "unsafe-interrupts")  # refused unless the definition allows it


def add_arguments(parser: ArgumentParser) -> None:
    """Four verbs of their own."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="PCI functions: driver, group, reset, whether they can be passed")
    listing.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output host`)")
    bind = verbs.add_parser("bind", help="take a function for vfio-pci until it is unbound")
    bind.add_argument("address", metavar="ADDRESS", help="as in `vmrun host list`, 0000:01:00.0 or 01:00.0")
    unbind = verbs.add_parser("unbind", help="give a function back to its driver")
    unbind.add_argument("address", metavar="ADDRESS", help="as in `vmrun host list`, 0000:01:00.0 or 01:00.0")
    verbs.add_parser("restore", help="give back all that is left of killed runs or was bound by hand")


def run(args: Namespace) -> int:
    """Do one verb; 74 when a function could not be given back."""
    if args.verb == "restore":
        from runner.host.passthrough.recovery import restore_all

        return _told(restore_all(), "nothing is left to give back" + _of_root())
    from runner.host.survey import survey

    facts = survey(qemu_version=False)
    if args.verb == "list":
        return _list(facts, as_json=args.json)
    from runner.lending.match import address_of

    address = address_of({"host": args.address})
    return _bind(address, facts) if args.verb == "bind" else _unbind(address, facts)


def _bind(address: str, facts: HostFacts) -> int:
    from runner.cli.log import tell
    from runner.host.passthrough.by_hand import bind_by_hand

    before = next((one.driver for one in facts.pci if one.address == address), "")
    if bind_by_hand(address, facts):
        back = f"vmrun host unbind {address}"
        tell("notice", f"{address}: {before or 'no driver'} -> vfio-pci; `{back}` gives it back")
    else:
        tell("notice", f"{address} is on vfio-pci already")
    return 0


def _unbind(address: str, facts: HostFacts) -> int:
    from runner.host.passthrough.by_hand import unbind_by_hand

    return _told(unbind_by_hand(address, facts))


def _of_root() -> str:
    """Another user neither sees nor may undo what root's runs have left."""
    import os

    from runner.host.passthrough.state import state_folder

    others = os.geteuid() != 0 and os.path.exists(state_folder(environ={}, euid=0))
    return " of this user's runs; what root's have left: sudo vmrun host restore" if others else ""


def _told(done: Sequence[Restored], nothing: str = "") -> int:
    """Say what became of each function."""
    from runner.cli.log import tell

    if not done:
        tell("notice", nothing)
    for one in done:
        after = f" (left by {one.vm})" if one.vm and one.vm != "vmrun host bind" else ""
        level = "error" if one.complaint else "warning" if one.note else "notice"
        tell(level, one.words() + after)
    return INCOMPLETE if any(one.complaint for one in done) else 0


def _list(facts: HostFacts, *, as_json: bool) -> int:
    import sys

    from runner.host.pci_names import pci_names
    from runner.host.sysfs import HostSysfs
    from runner.lending.candidates import candidates

    names = pci_names(HostSysfs())
    rows, common = candidates(facts)
    if as_json:
        from runner.cli.envelope import enveloped

        functions = [_row(*row, names) for row in rows]
        sys.stdout.write(enveloped({"host": [_words(one) for one in common], "functions": functions}))
    else:
        sys.stdout.write(table(rows, common, names))
        if not names.known:
            from runner.cli.log import tell

            tell("notice", "only classes have names, since pci.ids is not installed (apt install pci.ids)")
    return 0


def _words(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "what": finding.what, "mend": finding.mend}


def _row(function: PciFacts, findings: Sequence[Finding], names: PciNames) -> dict[str, Any]:
    from runner.graph.encode import to_json

    facts = to_json(function)
    assert isinstance(facts, dict)
    return {
        **facts,
        "name": names.of(function),
        "kind": names.kind(function.class_code),
        "passable": not findings,
        "why_not": [_words(one) for one in findings],
    }


def table(
    rows: Sequence[tuple[PciFacts, Sequence[Finding]]], common: Sequence[Finding], names: PciNames
) -> str:
    """Columns for what is short, and the name and the reasons below each function."""
    heads = ("ADDRESS", "ID", "DRIVER", "GROUP", "RESET", "PASS")
    cells = [heads] + [_cells(function, findings, bool(common)) for function, findings in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(heads, widths, strict=True)).rstrip()]
    for row, (function, findings) in zip(cells[1:], rows, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines.append(f"    {_identity(function, names)}")
        lines += [f"    {_short(one, function)}" for one in findings]
    if common:
        lines += ["", "Nothing can be passed through from this host now:"]
    for one in common:
        lines += [f"  {one.what}", f"    mend: {one.mend}"]
    return "\n".join(lines) + "\n"


def _cells(function: PciFacts, findings: Sequence[Finding], refused: bool) -> tuple[str, ...]:
    group = "-" if function.iommu_group is None else str(function.iommu_group)
    return (
        function.address,
        f"{function.vendor}:{function.device}",
        function.driver or "-",
        group,
        ",".join(function.reset_methods) or "-",
        _passable(findings, refused),
    )


def _identity(function: PciFacts, names: PciNames) -> str:
    """All that ``match`` may choose it by, but for the ids, which have a column."""
    from runner.lending.match import marks

    kind = f"{names.kind(function.class_code)} [{function.class_code}]"
    return "; ".join((f"{kind}: {names.of(function)}", *marks(function)))


def _passable(findings: Sequence[Finding], refused: bool) -> str:
    """yes, no, "root" where it takes root's rights, or "allow": a definition may opt in to it."""
    rules = {one.rule for one in findings}
    if refused or rules - {"permission", *OPT_INS}:
        return "no"
    return "root" if "permission" in rules else "allow" if rules else "yes"


def _short(finding: Finding, function: PciFacts) -> str:
    """A reason and what to do, below a line that has said which function it is about."""
    from runner.lending.match import described

    what = finding.what.replace(described(function), "it").replace(function.address, "it")
    kind = "only if allowed" if finding.rule in OPT_INS else "root" if finding.rule == "permission" else "no"
    return f"{kind}: {what}; {finding.mend}"
