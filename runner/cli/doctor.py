"""``vmrun doctor``: what this host can do, and how to mend what it cannot."""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from runner.host.diagnosis import Check

MARKS = {"ok": "✓", "limited": "!", "missing": "✗"}
ASCII_MARKS = {"ok": "ok", "limited": " !", "missing": " x"}
COLOURS = {"ok": "32", "limited": "33", "missing": "31"}
UNAVAILABLE = 69


def add_arguments(parser: ArgumentParser) -> None:
    """The form of the answer."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON (`vmrun schema --output doctor`)")
    form.add_argument(
        "--facts", action="store_true", help="only the host's facts, for `vmrun plan --host FILE`"
    )


def run(args: Namespace) -> int:
    """Print the answer; 69 when no engine can run a machine here, otherwise 0."""
    import sys

    from runner.host.diagnosis import diagnose, engine_here
    from runner.host.surroundings import surroundings
    from runner.host.survey import survey

    facts = survey(qemu_version=True)
    if args.facts:
        from runner.graph.encode import dumps

        sys.stdout.write(dumps(facts))
        return 0
    checks = diagnose(facts, surroundings())
    engine = engine_here(facts)
    if args.json:
        from runner.cli.envelope import enveloped
        from runner.graph.encode import to_json

        rows = [check._asdict() for check in checks]
        sys.stdout.write(enveloped({"engine": engine or None, "checks": rows, "facts": to_json(facts)}))
    else:
        sys.stdout.write(shown(checks, *_manners()))
    return 0 if engine else UNAVAILABLE


def _manners() -> tuple[bool, bool]:
    """(may we write ✓, may we use colour) on standard output."""
    import sys

    from runner.cli.narrator import wants_colour

    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return utf8, wants_colour(terminal=sys.stdout.isatty())


def shown(checks: tuple[Check, ...], utf8: bool, colour: bool) -> str:
    """A line for each check, and below it what mends it."""
    marks = MARKS if utf8 else ASCII_MARKS
    arrow = "→" if utf8 else "->"
    lines = []
    for check in checks:
        mark = marks[check.mark]
        if colour:
            mark = f"\x1b[{COLOURS[check.mark]}m{mark}\x1b[0m"
        lines.append(f"{mark} {check.what}")
        if check.mend:
            lines.append(f"  {'' if utf8 else ' '}{arrow} {check.mend}")
    return "\n".join(lines) + "\n"
