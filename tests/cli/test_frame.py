"""The command line's frame: which command, which status, which words, and nothing imported in vain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cli import arguments, commands, doctor, main, narrator, parser, show_findings
from runner.cli import run as run_command
from runner.errors import (
    DefinitionError,
    HostError,
    HostIoError,
    HostPermissionError,
    InternalError,
    UsageError,
)

ROOT = Path(__file__).resolve().parents[2]


def vmrun(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``vmrun`` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )


def fake_run(monkeypatch: pytest.MonkeyPatch, behave: Callable[[Any], int]) -> None:
    """``vmrun run`` does this instead of starting a machine."""
    monkeypatch.setattr(run_command, "run", behave)


def test_version_and_help_go_to_standard_output() -> None:
    """Asked for, they are the result: status 0, nothing on standard error."""
    version, told = vmrun("--version"), vmrun("--help")
    assert (version.returncode, version.stdout, version.stderr) == (0, "vmrun 0.1.0\n", "")
    assert (told.returncode, told.stderr) == (0, "")
    for verb in commands.COMMANDS:
        assert f"\n  {verb} " in told.stdout


def test_no_words_at_all() -> None:
    """Help on standard error and EX_USAGE: a script that forgot its file must not succeed."""
    done = vmrun()
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("usage: vmrun")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["nonsense"]])
def test_the_frame_imports_no_command_and_nothing_heavy(words: list[str]) -> None:
    """What everybody waits for is small: no argparse, no json, no command's module."""
    heavy = {
        "argparse",
        "json",
        "re",
        "jsonschema",
        "structlog",
        "logging",
        "tomllib",
        "tree_sitter",
        "asyncio",
    }
    heavy |= {f"runner.cli.{verb}" for verb in commands.COMMANDS}
    if words == ["nonsense"]:
        heavy -= {"re"}  # difflib's
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom runner.cli import main\nmain({words!r})\n"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_registered_command_has_its_file() -> None:
    """Each verb of the table has a module with both functions, and each such module is in the table."""
    from importlib import import_module

    for verb in commands.COMMANDS:
        module = import_module(f"runner.cli.{commands.MODULES.get(verb, verb)}")
        assert callable(module.add_arguments)
        assert callable(module.run)
    folder = ROOT / "runner" / "cli"
    made = {path.stem for path in folder.glob("*.py") if "\ndef add_arguments(" in path.read_text()}
    assert made == {commands.MODULES.get(verb, verb) for verb in commands.COMMANDS}


@pytest.mark.parametrize("verb", list(commands.COMMANDS))
def test_every_command_has_help(verb: str) -> None:
    """``vmrun VERB --help`` and ``vmrun help VERB`` answer on standard output with status 0."""
    for words in ([verb, "--help"], ["help", verb]):
        done = vmrun(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"vmrun {verb}" in done.stdout


def test_a_file_alone_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """``vmrun FILE``, with options before or after it, is ``vmrun run FILE``."""
    seen: list[tuple[str, str]] = []
    fake_run(monkeypatch, lambda args: seen.append((args.file, args.engine)) or 7)
    lines = (
        ["x.toml"],
        ["run", "x.toml"],
        ["--engine", "kvm", "x.toml"],
        ["x.toml", "--engine=kvm"],
        ["-v", "run", "--engine", "kvm", "x.toml"],
        ["--log", "json", "x.toml"],
        ["-q", "./x"],
    )
    assert [main(list(words)) for words in lines] == [7] * len(lines)
    assert seen == [
        ("x.toml", None),
        ("x.toml", None),
        ("x.toml", "kvm"),
        ("x.toml", "kvm"),
        ("x.toml", "kvm"),
        ("x.toml", None),
        ("./x", None),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chek", "x.toml"], "did you mean `vmrun check`"),
        (["hello"], "neither a command nor a file"),
        (["check"], "required: FILE"),
        (["check", "--strct", "x.toml"], "did you mean --strict"),
        (["run", "--engin", "kvm", "x.toml"], "did you mean --engine"),
        (["run", "--engine", "bhyve", "x.toml"], "bhyve"),
        (["run", "a.toml", "b.toml"], "one word too many: b.toml"),
        (["run"], "required: FILE"),
        (["schema", "extra"], "one word too many"),
        (["completion", "tcsh"], "tcsh"),
        (["--log", "xml", "check", "vms/hello.toml"], "xml"),
        (["check", "no/such.toml"], "no such file"),
    ],
)
def test_wrong_words_are_status_64(words: list[str], says: str) -> None:
    """EX_USAGE, one line that says which word, a hint where there is one, and no traceback."""
    done = vmrun(*words)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("vmrun: error: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("bad words"), 64),
        (DefinitionError("bad file"), 65),
        (HostError("no KVM"), 69),
        (InternalError("our rule"), 70),
        (HostIoError("disk full"), 74),
        (HostPermissionError("not allowed"), 77),
    ],
)
def test_an_error_is_one_line_and_its_status(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    """Blame decides the status (errors.py); the hint stands on a line of its own."""
    error.hint = "do this"  # type: ignore[attr-defined]

    def fail(args: Any) -> int:
        raise error

    fake_run(monkeypatch, fail)
    assert main(["x.toml"]) == status
    captured = capfd.readouterr()
    assert captured.err == f"vmrun: error: {error}\nvmrun: hint: do this\n"
    assert captured.out == ""


def test_an_unforeseen_exception_is_our_bug(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Status 70, a request to report it, and a traceback only for those who ask."""

    def fail(args: Any) -> int:
        raise RuntimeError("boom")

    fake_run(monkeypatch, fail)
    assert main(["x.toml"]) == 70
    quiet = capfd.readouterr().err
    assert "bug in vmrun: RuntimeError: boom" in quiet
    assert "Traceback" not in quiet
    assert main(["-v", "x.toml"]) == 70
    assert "Traceback" in capfd.readouterr().err
    monkeypatch.setenv("VMRUN_DEBUG", "1")
    assert main(["x.toml"]) == 70
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """128 + SIGINT and nothing said: who pressed it knows."""

    def interrupted(args: Any) -> int:
        raise KeyboardInterrupt

    fake_run(monkeypatch, interrupted)
    assert main(["x.toml"]) == 130
    assert capfd.readouterr().err == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    """``vmrun schema | true`` ends with 128 + SIGPIPE and says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", "schema"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_as_json() -> None:
    """``--log json``, before or after the command, or VMRUN_LOG: each thing said is one JSON object."""
    for done in (
        vmrun("--log", "json", "check", "no/such.toml"),
        vmrun("check", "no/such.toml", "--log=json"),
        vmrun("check", "no/such.toml", VMRUN_LOG="json"),
    ):
        record = json.loads(done.stderr)
        assert (record["level"], record["status"]) == ("error", 64)
        assert "no such file" in record["event"]


def test_findings_of_a_wrong_file_come_before_the_error(tmp_path: Path) -> None:
    """Whatever command needs the definition shows all that is wrong with it."""
    (tmp_path / "x.toml").write_text("cpus = 0\n")
    done = vmrun("plan", str(tmp_path / "x.toml"))
    assert done.returncode == 65
    assert "cpus = 0\n    |        ^" in done.stderr
    assert done.stderr.rstrip().endswith("x.toml: 2 errors")


WORDS = st.lists(
    st.sampled_from(
        [
            "x.toml",
            "y.toml",
            "-",
            "--engine",
            "kvm",
            "qemu",
            "--engine=kvm",
            "-e",
            "--timeout",
            "60s",
            "--timeout=",
            "-v",
            "-q",
            "--log",
            "json",
            "--log=xml",
            "--detach",
            "-d",
            "--detach=1",
            "--report",
            "r.json",
            "--nope",
            "-vq",
            "--",
        ]
    ),
    max_size=6,
)


@settings(deadline=None)
@given(WORDS)
def test_run_reads_its_words_as_argparse_does(words: list[str]) -> None:
    """The short way and argparse read the same declarations to the same values, or both refuse."""

    def outcome(read: Callable[..., Any]) -> Any:
        try:
            return vars(read("run", run_command.add_arguments, words))
        except UsageError as error:
            return str(error)

    assert outcome(arguments.parse) == outcome(parser.parse)


def test_a_plain_run_needs_no_argparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that everybody types is read without argparse's import."""

    def forbidden(*_: Any) -> Any:
        raise AssertionError("argparse was asked")

    monkeypatch.setattr(parser, "parse", forbidden)
    read = arguments.parse("run", run_command.add_arguments, ["--engine", "kvm", "x.toml", "-v"])
    assert isinstance(read, SimpleNamespace)
    assert (read.file, read.engine, read.verbose) == ("x.toml", "kvm", 1)


def test_options_that_exclude_each_other_are_argparses_case() -> None:
    """The short way does not decide what it has not recorded."""

    def declare(to: Any) -> None:
        group = to.add_mutually_exclusive_group()
        group.add_argument("--a", action="store_true")
        group.add_argument("--b", action="store_true")

    with pytest.raises(UsageError, match="not allowed with"):
        arguments.parse("check", declare, ["--a", "--b"])
    assert arguments.parse("check", declare, ["--a"]).a


def test_parsers_know_every_command() -> None:
    """Each command's arguments can be declared to a real parser, with no name twice."""
    from importlib import import_module

    for verb in commands.COMMANDS:
        module = import_module(f"runner.cli.{commands.MODULES.get(verb, verb)}")
        made = parser.make(verb, module.add_arguments)
        assert isinstance(made, ArgumentParser)


FULL = "/dev/full"


OUTPUTS = (
    ["--help"],
    ["plan", "--help"],
    ["schema"],
    ["check", "vms/hello.toml"],
    ["plan", "--json", "vms/hello.toml"],
)


@pytest.mark.parametrize("words", OUTPUTS)
def test_outputs_that_are_full_or_closed(words: list[str]) -> None:
    """A full disk is an I/O error with a sentence; who closed an output did not want it."""
    command = [sys.executable, "-m", "runner.cli", *words]
    with open(FULL, "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 74
    assert "standard output: no space left on device" in done.stderr
    closed = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *command], cwd=ROOT, check=False)
    assert closed.returncode == 0


def test_what_standard_output_cannot_spell_is_written_as_a_number(tmp_path: Path) -> None:
    """Lines of a tree in ASCII, and a file's name that is no text: a result, and no bug."""
    (tmp_path / os.fsdecode(b"n\xff.toml")).write_text(
        'kernel = { deb = "linux-image-cloud-amd64" }\nserial = "off"\n'
    )
    done = vmrun("plan", "vms/hello.toml", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u251c" in done.stdout
    done = vmrun("check", "--no-host", str(tmp_path / os.fsdecode(b"n\xff.toml")))
    assert (done.returncode, done.stderr) == (0, "")
    assert "n\\udcff.toml: ok" in done.stdout


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_full_or_closed_standard_error_changes_no_status(tmp_path: Path, form: str) -> None:
    """The status still says what happened, for errors of use and for broken definitions."""
    bad = tmp_path / "bad.toml"
    bad.write_text("cpus = four\n")
    for words, status in ((["check", "no/such"], 64), ([str(bad)], 65), ([], 64)):
        command = [sys.executable, "-m", "runner.cli", "--log", form, *words]
        for redirection in ("2>/dev/full", "2>&-"):
            done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *command], cwd=ROOT, check=False)
            assert done.returncode == status, (words, redirection)


def test_faults_of_a_definition_are_records_for_a_machine(tmp_path: Path) -> None:
    """With --log json every line on standard error is JSON, and a fault has its place in fields."""
    bad = tmp_path / "bad.toml"
    bad.write_text('kernl = 1\ncpus = 0\nserial = "off"\n')
    lines = vmrun("--log", "json", str(bad)).stderr.splitlines()
    records = [json.loads(line) for line in lines]
    assert [(one["line"], one["column"], one["code"]) for one in records[:-1]] == [
        (1, 1, "unknown-key"),
        (2, 8, "range"),
    ]
    assert records[-1]["status"] == 65


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "--strct"], "did you mean --strict"),
        (["--enginee", "kvm"], "did you mean --engine"),
        (["host", "lst"], "did you mean list"),
        (["help", "chek"], "did you mean `vmrun check`"),
        (["help", "xyzzy"], "`vmrun --help` lists"),
        (["check", "--"], "the following arguments are required: FILE"),
        (["check", "--strct", "--"], "did you mean --strict"),
        (["check", ""], "an empty word stands where a file is to be named"),
        (["x.toml", "--timeout", "-5s"], "`-5s` begins with a dash"),
        (["x.toml", "--timeout", "-5s"], "is written --timeout=-5s"),
    ],
)
def test_misspelt_words_are_told_before_what_is_missing(words: list[str], said: str) -> None:
    """An unknown option or verb comes before the file that is missing because of it."""
    done = vmrun(*words)
    assert done.returncode == 64
    assert said in done.stderr


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("5", "`5`: a duration needs a unit", "did you mean 5s?"),
        ("1m30s", "1m30s", "did you mean 90s?"),
        ("-5s", "'-5s' is not a duration", "write 60s, 5m or 1.5h"),
        ("99999999999999999999h", "out of range: 1 ms to 366 days", "write 60s"),
        ("soon", "'soon' is not a duration", "write 60s"),
    ],
)
def test_a_time_is_written_as_in_a_definition(text: str, said: str, hint: str) -> None:
    """On the command line too a number has its unit, and no run is longer than a year."""
    with pytest.raises(UsageError, match=re.escape(said)) as refused:
        run_command.seconds(text)
    assert hint in refused.value.hint


def test_the_times_of_the_command_line() -> None:
    """Each unit, and 0 for none."""
    assert [run_command.seconds(text) for text in ("0", "500ms", "1.5m", "720h")] == [0, 0.5, 90, 2592000]


def test_a_name_is_taken_as_it_is_or_not_at_all() -> None:
    """``vmrun ps`` must not show another name than was given."""
    done = vmrun("vms/hello.toml", "--name", "../../x y")
    assert done.returncode == 64
    assert "`../../x y` cannot be a machine's name" in done.stderr
    assert "did you mean --name _.._x_y?" in done.stderr


def test_an_empty_no_color_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set and not empty switches colours off (no-color.org), in each place that has any."""
    for value, wanted in (("", True), ("1", False)):
        with monkeypatch.context() as here:
            here.setenv("TERM", "xterm")
            here.setenv("NO_COLOR", value)
            here.setattr(os, "isatty", lambda fd: True)
            here.setattr(sys, "stdout", SimpleNamespace(encoding="utf-8", isatty=lambda: True))
            assert narrator.Narrator()._colour is wanted
            assert doctor._manners() == (True, wanted)
            assert show_findings.wants_colour(sys.stdout) is wanted


def test_a_report_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    """A folder that is missing, or in its place: status 74 at once, and nothing was started."""
    for place in (tmp_path / "no" / "report.json", tmp_path):
        for option in ("--report", "--junit"):
            done = vmrun("vms/hello.toml", option, str(place))
            assert (done.returncode, done.stdout) == (74, "")
            assert "cannot write" in done.stderr
            assert "engine" not in done.stderr
