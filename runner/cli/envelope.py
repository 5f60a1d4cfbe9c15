"""What every ``--json`` prints: one object whose first key says the version of its form.

A key that is added leaves the version as it is; one that goes, or means something else, raises it
(decision record 0120).
"""

from __future__ import annotations

from runner.typed import Any, Mapping

VERSION = 1


def enveloped(answer: Mapping[str, Any]) -> str:
    """The answer as text."""
    import json

    return json.dumps({"version": VERSION, **answer}, indent=2, ensure_ascii=False) + "\n"
