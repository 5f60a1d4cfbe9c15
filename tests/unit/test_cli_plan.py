"""``vmrun plan`` and ``vmrun diff`` as a user calls them, for stored hosts."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path

import pytest

from runner.cli import diff, plan
from runner.errors import UsageError
from runner.graph.encode import from_json
from runner.graph.model import Graph
from tests.unit.plan_goldens import CHECKOUT, GOLDEN

HELLO = str(CHECKOUT / "vms" / "hello.toml")
LAPTOP = str(GOLDEN / "hosts" / "laptop.json")
CLOUD = str(GOLDEN / "hosts" / "cloud.json")


def call(command: object, *words: str) -> int:
    parser = ArgumentParser()
    command.add_arguments(parser)  # type: ignore[attr-defined]
    status: int = command.run(parser.parse_args(words))  # type: ignore[attr-defined]
    return status


def test_plan_works_for_another_host(capsys: pytest.CaptureFixture[str]) -> None:
    """Stored facts decide the engine; this host is not asked."""
    assert call(plan, HELLO, "--host", LAPTOP) == 0
    assert "engine  kvm" in capsys.readouterr().out
    assert call(plan, HELLO, "--host", CLOUD) == 0
    assert "engine  qemu (tcg)" in capsys.readouterr().out


def test_plan_takes_facts_out_of_a_doctors_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``vmrun doctor --json`` of the other host is what people have."""
    report = tmp_path / "doctor.json"
    facts = json.loads(Path(LAPTOP).read_text())
    report.write_text(json.dumps({"engine": "kvm", "checks": [], "facts": facts}))
    assert call(plan, HELLO, "--host", str(report)) == 0
    assert "kvm_intel" in capsys.readouterr().out


@pytest.mark.parametrize(("form", "start"), [("--json", "{"), ("--dot", "digraph"), ("--svg", "<svg")])
def test_plan_has_its_forms(form: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form is the whole answer and nothing else."""
    assert call(plan, HELLO, "--host", LAPTOP, form) == 0
    assert capsys.readouterr().out.startswith(start)


def test_engines_given_replace_the_preference(capsys: pytest.CaptureFixture[str]) -> None:
    """``--engine qemu --engine kvm`` asks QEMU first."""
    assert call(plan, HELLO, "--host", LAPTOP, "--engine", "qemu", "--engine", "kvm", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("version") == 1
    graph = from_json(Graph, answer)
    assert [name for name, _ in graph.engine.reasons] == ["qemu", "kvm"]


def test_diff_tells_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for the same machine, 1 for another; a stored plan stands for its file."""
    assert call(plan, HELLO, "--host", LAPTOP, "--json") == 0
    stored = tmp_path / "hello.json"
    stored.write_text(capsys.readouterr().out)
    assert call(diff, str(stored), HELLO, "--host", LAPTOP) == 0
    assert capsys.readouterr().out == ""
    assert call(diff, str(stored), HELLO, "--host", CLOUD) == 1
    assert "~ machine engine: kvm → qemu (tcg)" in capsys.readouterr().out
    assert call(diff, str(stored), HELLO, "--host", CLOUD, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == 1
    assert {"path", "before", "after"} == set(answer["changes"][0])


def test_diff_says_keys_as_plan_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--set`` goes into each definition and into no stored plan."""
    assert call(plan, HELLO, "--host", LAPTOP, "--json") == 0
    stored = tmp_path / "hello.json"
    stored.write_text(capsys.readouterr().out)
    assert call(diff, HELLO, HELLO, "--host", LAPTOP, "--set", "cpus=4") == 0
    assert call(diff, str(stored), HELLO, "--host", LAPTOP, "--set", "cpus=4") == 1
    assert "cpus" in capsys.readouterr().out
    with pytest.raises(UsageError, match="both files are stored plans"):
        call(diff, str(stored), str(stored), "--set", "cpus=4")
    stored.write_text(stored.read_text().replace('"version": 1', '"version": 2', 1))
    with pytest.raises(UsageError, match="has the version 2, and this vmrun reads 1"):
        call(diff, str(stored), HELLO, "--host", LAPTOP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"cpus": "x"}', r"no host facts: facts\.cpus: expected a whole number"),
        (None, "no such file"),
    ],
)
def test_what_is_no_facts_file_is_a_usage_error(tmp_path: Path, content: str | None, message: str) -> None:
    """The file is named, and what is wrong with it."""
    file = tmp_path / "facts.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=message) as refused:
        call(plan, HELLO, "--host", str(file))
    assert str(file) in str(refused.value)


def test_what_is_no_plan_is_a_usage_error(tmp_path: Path) -> None:
    """``vmrun diff`` says where a stored plan does not fit."""
    file = tmp_path / "plan.json"
    file.write_text('{"name": 1}')
    with pytest.raises(UsageError, match=r"no plan: plan\.name: expected a string, found a whole number"):
        call(diff, str(file), str(file))
