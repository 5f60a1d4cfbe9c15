"""The pages on ends and statuses have every reason and every command, and say of them what is so."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runner.cli
import runner.cli.balloon
import runner.cli.doctor
import runner.cli.host
import runner.host.survey
from runner import errors
from runner.cli.commands import COMMANDS
from runner.verdict.reasons import REASONS
from tests.unit.plan_goldens import CHECKOUT, GOLDEN, host

DOCS = CHECKOUT / "docs"
PAGE = (DOCS / "reference" / "exit-status.md").read_text(encoding="utf-8")
FAILURES = (DOCS / "guide" / "failures.md").read_text(encoding="utf-8")
GOOD_ENDS = ("power-off", "reset", "stopped")

RIGHT = 'kernel = { deb = "linux-image-cloud-amd64" }\ncmdline = "console=ttyS0"\n'
MORE = RIGHT + "cpus = 2\n"
WRONG = RIGHT + "cpus = 0\n"
NO_QEMU = RIGHT + '[pmem.a]\npath = "a"\nsize = "2M"\n'
CLOUD = str(GOLDEN / "hosts" / "cloud.json")
LAPTOP = str(GOLDEN / "hosts" / "laptop.json")

SEEN = [
    ("check", ["right.toml"], 0),
    ("check", ["right.toml", "wrong.toml"], 65),
    ("plan", ["right.toml", "--host", LAPTOP], 0),
    ("plan", ["no_qemu.toml", "--host", CLOUD, "--engine", "qemu"], 0),
    ("diff", ["right.toml", "right.toml", "--host", LAPTOP], 0),
    ("diff", ["right.toml", "more.toml", "--host", LAPTOP], 1),
    ("ps", [], 0),
    ("stop", ["nobody"], 64),
    ("attach", ["nobody"], 64),
    ("logs", ["nobody"], 64),
    ("pause", ["nobody"], 64),
    ("resume", ["nobody"], 64),
    ("import", ["--", "qemu-system-x86_64", "-kernel", "vmlinuz"], 0),
    ("import", ["--", "bochs", "-q"], 64),
    ("export", ["no_qemu.toml"], 69),
    ("schema", [], 0),
    ("schema", ["--device", "nothing"], 64),
    ("completion", ["bash"], 0),
]
"""Commands, their words, and the status that they really end with."""

ELSEWHERE = {("balloon", 124), ("doctor", 69), ("host", 74)}
"""What takes a made-up host or machine, in the tests further down."""


def rows() -> dict[str, list[str]]:
    """The table by command: verb to its cells."""
    table = PAGE.partition("## By command")[2]
    found = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.M)
    return {verb: [cell.strip() for cell in rest.split(" |")] for verb, rest in found}


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the four machines, where none of ours runs and none has left a log."""
    for name, text in {"right": RIGHT, "more": MORE, "wrong": WRONG, "no_qemu": NO_QEMU}.items():
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))


def test_every_reason_stands_in_the_reference_with_status_and_words() -> None:
    """One row each, with the status of the table that decides."""
    for row in REASONS:
        status = {"signal": "128 + n", "not-started": "of the error (below)"}.get(row.name, row.status)
        shown = "the guest's own, else 0" if status is None else status
        assert f"| `{row.name}` | {shown} | {row.words} |" in PAGE, row.name


def test_every_reason_is_explained_or_called_good() -> None:
    """docs/guide/failures.md: what it means and what to do, for each end that is not a good one."""
    explained = re.findall(r"^\| `([\w-]+)` \| \S.* \| \S.* \|$", FAILURES, re.M)
    assert sorted(explained) == sorted(row.name for row in REASONS if row.name not in GOOD_ENDS)
    assert all(f"`{name}`" in FAILURES for name in GOOD_ENDS)


def test_every_status_of_an_error_stands_in_the_reference() -> None:
    """Whoever has to act decides."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, errors.VmrunError):
            assert f"| {kind.status} |" in PAGE


def test_every_command_has_a_row() -> None:
    """In the order of ``vmrun --help``, which is that of the work."""
    assert sorted(rows()) == sorted(COMMANDS)
    assert all(len(cells) == 2 and cells[0] for cells in rows().values())


def test_what_the_table_says_is_seen_below() -> None:
    """No status of the table is only said."""
    said = {(verb, int(n)) for verb, cells in rows().items() for n in re.findall(r"\b(\d+): ", cells[1])}
    seen = {(verb, status) for verb, _, status in SEEN if status} | ELSEWHERE
    assert said - {("balloon", 64)} == seen


@pytest.mark.parametrize(("verb", "words", "status"), SEEN, ids=lambda part: str(part)[:40])
def test_a_command_ends_with_the_status_that_the_table_has(
    verb: str, words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, on files that are there and machines that are not."""
    assert runner.cli.main([verb, *words]) == status, capsys.readouterr().err


def test_doctor_tells_by_its_status_whether_anything_can_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A laptop with KVM, and a host with neither KVM nor QEMU."""
    able = host("laptop")
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: able)
    assert runner.cli.main(["doctor"]) == 0
    unable = able._replace(kvm=able.kvm._replace(usable=False), qemu=able.qemu._replace(path=""))
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: unable)
    assert runner.cli.main(["doctor"]) == 69
    assert capsys.readouterr().out


def test_balloon_that_waits_in_vain_is_124(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A guest without the driver gives nothing back."""

    class Machine:
        def __enter__(self) -> Machine:
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, **_: Any) -> dict[str, int]:
            return {"target": 64 << 20, "actual": 0}

    monkeypatch.setattr(runner.cli.balloon, "connect", lambda name: Machine())
    assert runner.cli.main(["balloon", "web", "64M"]) == 0
    assert runner.cli.main(["balloon", "web", "64M", "--wait", "0"]) == 124


def test_restore_that_is_not_complete_is_74(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that could not be given back is an error of the command."""
    one = SimpleNamespace(complaint="it is busy", vm="", words=lambda: "0000:01:00.0: it is busy")
    monkeypatch.setattr("runner.host.passthrough.recovery.restore_all", lambda: (one,))
    assert runner.cli.main(["host", "restore"]) == 74
