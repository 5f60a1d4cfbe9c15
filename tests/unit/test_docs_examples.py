"""Definitions, commands and outputs that the documents show are real ones."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import runner.cli
from runner.cli.commands import MODULES, chosen, first_word
from runner.definition.load import load
from runner.definition.model import Definition
from runner.errors import UsageError, VmrunError
from runner.graph.plan import plan
from runner.hostfacts import HostFacts
from runner.light import import_module
from tests.unit.plan_goldens import CHECKOUT, HOSTS, host

NOT_OURS = {"benchmarks.md"}  # made by the bench
PAGES = {
    str(path.relative_to(CHECKOUT)): path.read_text(encoding="utf-8")
    for path in sorted([CHECKOUT / "README.md", *CHECKOUT.glob("docs/**/*.md")])
    if path.name not in NOT_OURS
}
BLOCKS = [
    pytest.param(page, text, id=f"{page}:{number}")
    for page, whole in PAGES.items()
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", whole, re.S), start=1)
]
PIECE = "common/base.toml"
"""The piece of docs/guide/pieces.md, which the examples below it extend."""


def complete(text: str) -> str:
    """A machine out of an example: what it leaves out stands before it."""
    said = tomllib.loads(text)
    head = {
        "kernel": 'kernel = { deb = "linux-image-cloud-amd64" }\n',
        "cmdline": 'cmdline = "console=ttyS0"\n',
    }
    return "".join(line for key, line in head.items() if key not in said) + text


def able(facts: HostFacts, definition: Definition) -> HostFacts:
    """The host with QEMU, and with a function at each address that the machine names."""
    addresses = {str(entry.options["host"]) for entry in definition.devices if "host" in entry.options}
    missing = addresses - {one.address for one in facts.pci}
    more = tuple(one._replace(address=address) for one in facts.pci[-1:] for address in sorted(missing))
    qemu = facts.qemu._replace(path="/usr/bin/qemu-system-x86_64")
    return facts._replace(qemu=qemu, pci=facts.pci + more)


@pytest.mark.parametrize(("page", "text"), BLOCKS)
def test_a_definition_that_is_shown_is_one_that_can_be_planned(page: str, text: str, tmp_path: Path) -> None:
    """No fault, no warning; on some host of the tests with QEMU there is an engine that can run it."""
    (tmp_path / "common").mkdir()
    (tmp_path / PIECE).write_text('timeout = "60s"\n')
    path = tmp_path / "shown.toml"
    path.write_text(complete(text))
    definition = load(str(path))
    assert definition.warnings == (), page
    engines = []
    for name in HOSTS:
        try:
            engines.append(plan(definition, able(host(name), definition)).engine.name)
        except VmrunError:
            continue  # the device that it lends is another host's
    assert any(engines), page


@pytest.mark.parametrize(("page", "text"), BLOCKS)
def test_a_virtio_driver_is_never_shown_without_its_bus(page: str, text: str) -> None:
    """virtio_pci is a module of Debian's kernels that no other one pulls in."""
    initramfs = tomllib.loads(text).get("initramfs", {})
    modules = initramfs.get("modules", []) if isinstance(initramfs, dict) else []
    needy = [name for name in modules if name.startswith(("virtio", "9pnet", "vmw_vsock"))]
    assert not needy or "virtio_pci" in modules, page


def code_lines(text: str) -> list[str]:
    """The lines of indented and fenced code, less what is TOML."""
    text = re.sub(r"```toml\n.*?```", "", text, flags=re.S)
    fenced = "".join(re.findall(r"```\w*\n(.*?)```", text, re.S)).splitlines()
    return fenced + [line[4:] for line in text.splitlines() if line.startswith("    ")]


def commands() -> list[tuple[str, str]]:
    """Page and words of every command of ours that is shown to be typed, in a line or in backquotes."""
    found = []
    for page, text in PAGES.items():
        spans = re.findall(r"`((?:sudo )?vmrun [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
        lines = [re.sub(r"^- (?:run: )?", "", line.strip()) for line in code_lines(text)]
        lines += re.findall(r'make lab CMD="([^"]+)"', text)
        for line in [*lines, *spans]:
            match = re.match(r"(?:sudo )?(?:\S*/)?vmrun (?!:)(.+)$", line)
            if match:
                words = re.split(r"\s{2,}| > | \| | # ", match.group(1))[0]
                found.append((page, words.rstrip("…")))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "words"), commands())
def test_a_command_that_is_shown_is_understood(page: str, words: str) -> None:
    """Verb, options and number of words; nothing is run.  Prose may name a command without its words."""
    from runner.cli.parser import parse

    split = shlex.split(words)
    if split[0] in ("--version", "--help", "help", "FILE", "COMMAND"):
        return
    verb, rest = chosen(split, first_word(split))
    command = import_module(f"runner.cli.{MODULES.get(verb, verb)}")
    try:
        parse(verb, command.add_arguments, rest)
    except UsageError as error:
        if "arguments are required" not in str(error):
            raise


def test_there_are_commands_to_look_at() -> None:
    """The pattern above still finds what is shown."""
    found = {words for _, words in commands()}
    assert {"host list", "plan vms/cardreader.toml", "--engine kvm vms/hello.toml"} <= found
    assert any("--junit" in words for words in found)
    assert len(found) > 40


def output_of(page: str, command: str) -> str:
    """What a page shows below a command that it shows, up to the next text."""
    lines = PAGES[page].split(f"    {command}\n", 1)[1].split("\n")
    shown = []
    for line in lines:
        if line.strip() and not line.startswith("    "):
            break
        shown.append(line[4:])
    return "\n".join(shown).strip("\n") + "\n"


def test_the_mistake_that_the_readme_shows_is_told_as_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of ``vmrun check``, run: its file is in the README too."""
    lines = output_of("README.md", "cat vm.toml").partition("vmrun check vm.toml\n")
    (tmp_path / "vm.toml").write_text(lines[0].rstrip("\n") + "\n")
    monkeypatch.chdir(tmp_path)
    assert runner.cli.main(["check", "vm.toml"]) == 65
    assert capsys.readouterr().out == lines[2].lstrip("\n")


def test_pieces_are_as_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its three files in their places: the check says what it shows, and the parameters arrive."""
    page = "docs/guide/pieces.md"
    base, smoke, again = re.findall(r"```toml\n(.*?)```", PAGES[page], re.S)
    (tmp_path / "common").mkdir()
    for name, text in {PIECE: base, "smoke.toml": smoke, "try.toml": again}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert runner.cli.main(["check", "smoke.toml"]) == 0
    assert capsys.readouterr().out == output_of(page, "vmrun check smoke.toml")
    settings = tuple(re.findall(r"--set (params\S+)", PAGES[page])[-2:])
    tried = load("try.toml", settings)
    assert (tried.name, tried.cpus.total, tried.memory.size) == ("try-6.6", 2, 256 << 20)


def test_every_chapter_is_in_the_guides_list() -> None:
    """And in no second place."""
    chapters = {path.name for path in (CHECKOUT / "docs" / "guide").iterdir()} - {"README.md"}
    listed = re.findall(r"^\d+\. \[[^]]+\]\(([^)]+)\)", PAGES["docs/guide/README.md"], re.M)
    assert sorted(listed) == sorted(chapters)
