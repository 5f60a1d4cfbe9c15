"""``vmrun balloon``: what it prints, in both forms."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from runner.cli import balloon
from runner.definition.schema import schema_folder


class Machine:
    """A machine that gives back what it is asked for, at once or never."""

    def __init__(self, gives: bool) -> None:
        self.gives = gives
        self.target = 0

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, **asked: Any) -> dict[str, int | bool]:
        self.target = asked.get("size", self.target)
        return {"ok": True, "target": self.target, "actual": self.target if self.gives else 0}


@pytest.mark.parametrize(
    ("gives", "wait", "status"), [(True, "1s", 0), (False, None, 0), (False, "1ms", 124)]
)
def test_what_is_given_back_is_told_in_two_forms(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gives: bool,
    wait: str | None,
    status: int,
) -> None:
    """Words with units for people, bytes for machines; the status says whether it was in time."""
    monkeypatch.setattr(balloon, "connect", lambda name: Machine(gives))
    asked = {"name": "box", "size": "256M", "wait": wait}
    assert balloon.run(SimpleNamespace(**asked, json=False)) == status  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"{'256 MiB' if gives else '0 bytes'} given back, 256 MiB asked for\n"
    assert balloon.run(SimpleNamespace(**asked, json=True)) == status  # type: ignore[arg-type]
    answer = json.loads(capsys.readouterr().out)
    with open(f"{schema_folder()}/output/balloon.schema.json", encoding="utf-8") as file:
        jsonschema.validate(answer, json.load(file))
    assert (answer["target"], answer["actual"]) == (256 << 20, 256 << 20 if gives else 0)
