"""``--set KEY=VALUE`` says a key of the definition, and is checked as if it stood in the file."""

from __future__ import annotations

import pytest

from runner.definition.load import inspect_text, loads
from runner.definition.settings import apply, parse
from runner.errors import UsageError

TEXT = """\
kernel = { url = "https://example.org/vmlinuz", sha256 = "%s" }
memory = "256M"
cmdline = "console=ttyS0"

[fs.src]
path = "/srv"
""" % ("0" * 64)


def definition(*settings: str):
    found = inspect_text(TEXT, "/vms/x.toml", settings)
    assert found.definition is not None, found.findings
    return found.definition


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("cpus=4", ("cpus",), 4),
        ("memory=4G", ("memory",), "4G"),
        ('memory="4G"', ("memory",), "4G"),
        ("fs.src.readonly=true", ("fs", "src", "readonly"), True),
        ('fs."src".path=/a=b', ("fs", "src", "path"), "/a=b"),
        ("engine=['qemu', 'kvm']", ("engine",), ["qemu", "kvm"]),
        ("cmdline=1\nmemory = 2", ("cmdline",), "1\nmemory = 2"),
        ("cmdline=", ("cmdline",), ""),
    ],
)
def test_a_value_is_toml_and_else_text(text, path, value):
    assert parse(text)[:2] == (path, value)


@pytest.mark.parametrize("text", ["cpus", "=4", "a b=1", "a..b=1", "[cpus]=1"])
def test_what_is_no_key_and_value_is_refused(text):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse(text)


def test_settings_go_before_the_file_and_the_last_one_wins():
    assert definition("memory=1G", "memory=2G").memory.size == 2 << 30


def test_a_key_in_a_table_that_the_file_has_leaves_the_others():
    assert definition("fs.src.tag=here").devices[0].options["path"]["resolved"] == "/srv"


def test_a_path_is_relative_to_the_file_as_if_it_stood_there():
    assert definition("fs.src.path=data").devices[0].options["path"]["resolved"] == "/vms/data"


def test_a_setting_changes_the_digest():
    """What is kept by the definition's hash is not taken for one with other settings."""
    assert definition("cpus=2").digest != definition("cpus=3").digest != loads(TEXT, "/vms/x.toml").digest


def test_a_fault_in_a_setting_is_shown_in_the_setting():
    (finding,) = inspect_text(TEXT, "x.toml", ("memory=lots",)).findings
    assert (finding.file, finding.line, finding.column, finding.end) == ("--set", 1, 8, 12)
    assert finding.source == "memory=lots"


def test_an_unknown_key_in_a_setting_has_its_caret_under_the_key():
    (finding,) = inspect_text(TEXT, "x.toml", ("memry=1G",)).findings
    assert (finding.file, finding.column, finding.end) == ("--set", 1, 6)
    assert "memory" in finding.suggestion + finding.hint + finding.message


@pytest.mark.parametrize(
    ("setting", "message", "end"),
    [
        ("a.b.c.d=5", "unknown key `a`", 8),
        ("disks.a.path=x", "missing key `format` in `disks.a`", 13),
        ("net.a.x.y=1", "unknown key `x` in `net.a`", 10),
    ],
)
def test_a_fault_of_a_table_that_only_a_setting_has_is_shown_in_the_setting(setting, message, end):
    """The file says nothing of it, so no line of it is shown."""
    (finding,) = inspect_text(TEXT, "x.toml", (setting,)).findings
    assert (finding.file, finding.message) == ("--set", message)
    assert (finding.column, finding.end) == (1, end)


def test_a_fault_of_a_table_that_the_file_has_too_is_shown_in_the_file():
    text = TEXT + '[disks.a]\nformat = "raw"\n'
    (finding,) = inspect_text(text, "x.toml", ("disks.a.readonly=true",)).findings
    assert (finding.file, finding.line, finding.message) == ("x.toml", 7, "missing key `path` in `disks.a`")


def test_a_key_below_a_value_is_refused():
    with pytest.raises(UsageError, match="no table"):
        apply({"memory": "1G"}, (parse("memory.size=1G"),))


def test_the_given_document_is_left_as_it_is():
    document = {"fs": {"src": {"path": "/srv"}}}
    apply(document, (parse("fs.src.path=/x"),))
    assert document == {"fs": {"src": {"path": "/srv"}}}
