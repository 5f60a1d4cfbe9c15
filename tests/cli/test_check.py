"""``vmrun check``, ``schema`` and ``completion`` as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from runner.cli import commands
from runner.cli.completion import SHELLS
from runner.cli.schema import OUTPUTS
from tests.cli.test_frame import ROOT, vmrun

GOOD = 'kernel = { deb = "linux-image-cloud-amd64" }\ncmdline = "console=ttyS0"\n'
WARNED = 'kernel = { deb = "linux-image-cloud-amd64" }\ncmdline = "quiet"\n'
BAD = "kernel = 5\ncpus = four\n"


def write(folder: Path, **files: str) -> list[str]:
    paths = [folder / f"{name}.toml" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return [str(path) for path in paths]


def test_statuses(tmp_path: Path) -> None:
    """0 for what can run, warnings included; 65 for errors, and with --strict for warnings."""
    good, warned, bad = write(tmp_path, good=GOOD, warned=WARNED, bad=BAD)
    assert vmrun("check", good).returncode == 0
    assert vmrun("check", warned).returncode == 0
    assert vmrun("check", warned, "--strict").returncode == 65
    assert vmrun("check", bad).returncode == 65
    assert vmrun("check", good, bad).returncode == 65


def test_what_is_said(tmp_path: Path) -> None:
    """The findings and one summary a file, on standard output; nothing on standard error."""
    good, warned, bad = write(tmp_path, good=GOOD, warned=WARNED, bad=BAD)
    done = vmrun("check", good, warned, bad)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert f"{good}: ok" in lines
    assert f"{warned}: 1 warning" in lines
    assert f"{bad}: 2 errors" in lines
    assert "\x1b" not in done.stdout
    assert vmrun("check", "-q", good).stdout == ""


def test_the_json_has_a_schema(tmp_path: Path) -> None:
    """--json prints what schemas/output/check.schema.json describes, for right and wrong files."""
    schema = json.loads(vmrun("schema", "--output", "check").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    done = vmrun("check", "--json", *write(tmp_path, good=GOOD, warned=WARNED, bad=BAD))
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert [file["valid"] for file in report["files"]] == [True, True, False]
    assert [(one["line"], one["column"], one["end"]) for one in report["files"][2]["findings"]] == [
        (1, 10, 11),
        (2, 8, 12),
    ]


def test_files_of_this_host_are_looked_at_unless_not_wanted(tmp_path: Path) -> None:
    """A missing file is an error here; --no-host checks the definition alone."""
    (path,) = write(tmp_path, x='kernel = "no-such-kernel"\nserial = "off"\n')
    assert vmrun("check", path).returncode == 65
    assert vmrun("check", "--no-host", path).returncode == 0


def test_what_is_told_of_the_host_is_held_to_the_same_rules(tmp_path: Path) -> None:
    """A line with a byte that is not UTF-8 is told once, and nobody reads more than a hundred findings."""
    path = tmp_path / "x.toml"
    path.write_bytes(b'kernel = "no-\xff"\nserial = "off"\n')
    done = vmrun("check", str(path))
    assert (done.returncode, done.stdout.count("error:")) == (65, 1)
    disks = "".join(f'[disks.d{n}]\npath = "no-{n}"\nformat = "raw"\n' for n in range(120))
    path.write_text(GOOD + disks)
    told = json.loads(vmrun("check", "--json", str(path)).stdout)
    assert len(told["files"][0]["findings"]) == 100


def test_what_is_set_on_the_command_line_is_checked_too(tmp_path: Path) -> None:
    """--set mends a file, or breaks it, and then its own words carry the caret."""
    good, bad = write(tmp_path, good=GOOD, bad="cpus = 1\n")
    assert vmrun("check", bad, "--set", "kernel.deb=linux-image-amd64", "--set", "serial=off").returncode == 0
    broken = vmrun("check", good, "--set", "cpus=0")
    assert broken.returncode == 65
    assert "--set:1:6: error" in broken.stdout
    missing = vmrun("check", good, "--set", "initramfs=no-such-file")
    assert "--set:1:11: error: there is no such file" in missing.stdout


def test_an_unreadable_file_does_not_hide_the_others(tmp_path: Path) -> None:
    """The others are told first; the status is that of the missing file."""
    (bad,) = write(tmp_path, bad=BAD)
    done = vmrun("check", "no/such.toml", bad)
    assert done.returncode == 64
    assert f"{bad}: 2 errors" in done.stdout
    assert "no such file" in done.stderr


@pytest.mark.parametrize("path", sorted(str(p.relative_to(ROOT)) for p in (ROOT / "vms").rglob("*.toml")))
def test_the_reference_definitions_are_right(path: str) -> None:
    """Every file in vms/ passes the check of the definition, warnings included."""
    done = vmrun("check", "--no-host", "--strict", path)
    assert done.returncode == 0, done.stdout


def test_schema_prints_the_whole_and_its_parts() -> None:
    """The whole is the file in git; a device's part is its fragment; a wrong name is told."""
    assert vmrun("schema").stdout == (ROOT / "schemas" / "vm.schema.json").read_text()
    part = json.loads(vmrun("schema", "--device", "virtio_blk").stdout)
    assert part["x-vmrun"]["kind"] == "virtio_blk"
    wrong = vmrun("schema", "--device", "virtio_blok")
    assert wrong.returncode == 64
    assert "virtio_blk" in wrong.stderr


def test_the_schema_of_each_output_is_found_by_its_command() -> None:
    """Every file in schemas/output has a name on the command line, and a wrong name is told the others."""
    for name, file in OUTPUTS.items():
        printed = vmrun("schema", "--output", name).stdout
        assert printed == (ROOT / "schemas" / "output" / f"{file}.schema.json").read_text()
    files = {path.name.removesuffix(".schema.json") for path in (ROOT / "schemas" / "output").iterdir()}
    assert files == set(OUTPUTS.values())
    wrong = vmrun("schema", "--output", "stop")
    assert wrong.returncode == 64
    assert "`stop` is none of the commands that write JSON" in wrong.stderr
    assert "balloon, check, diff" in wrong.stderr


def test_every_json_is_an_object_with_the_version_of_its_form() -> None:
    """Facts are a part of two of them, and go back into vmrun: they have none of their own."""
    for file in set(OUTPUTS.values()) - {"host-facts"}:
        schema = json.loads((ROOT / "schemas" / "output" / f"{file}.schema.json").read_text())
        assert schema["type"] == "object", file
        assert schema["properties"]["version"]["const"] == 1, file
        assert "version" in schema["required"], file


def test_every_json_is_described_where_its_option_is() -> None:
    """The help of --json names the command that prints its schema."""
    for verb in commands.COMMANDS:
        words = ("host", "list") if verb == "host" else (verb,)
        told = " ".join(vmrun(*words, "--help").stdout.split())
        assert ("--json" in told and verb != "completion") == (verb in OUTPUTS and verb != "run"), verb
        if verb in OUTPUTS:
            assert f"`vmrun schema --output {verb}`" in told, verb


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(shell: str) -> None:
    """Each verb, and the options of check, are in the script."""
    script = vmrun("completion", shell).stdout
    for word in ("check", "plan", "doctor", "schema", "strict", "no-host"):
        assert word in script


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vmrun ch", {"check"}),
        ("vmrun check --str", {"--strict"}),
        ("vmrun completion f", {"fish"}),
        ("vmrun -v run --engine k", {"kvm"}),
        ("vmrun check vms/hel", {"vms/hello.toml"}),
    ],
)
def test_bash_completes(line: str, offered: set[str]) -> None:
    """What bash offers after a few letters, asked from bash itself."""
    script = (
        f'source <("{sys.executable}" -m runner.cli completion bash)\n'
        f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _vmrun\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert set(done.stdout.split()) == offered, done.stderr
