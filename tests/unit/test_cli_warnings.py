"""What a definition is warned of is said by a run too, once, and as its reader wants it."""

from __future__ import annotations

import json

import pytest

from runner.cli import log, run
from runner.definition.load import loads

TEXT = 'kernel = "vmlinuz"\ncmdline = "quiet"\nmemory = "256M"\nserial = "tty"\n'


@pytest.fixture(autouse=True)
def _as_before():
    yield
    log.configure()


def test_as_check_shows_it_with_its_line_and_its_caret(capfd):
    log.configure()
    run._warn(loads(TEXT, "vm.toml").warnings)
    said = capfd.readouterr()
    assert said.out == ""
    assert "vm.toml:2:11: warning: the kernel is not told to use the only serial port" in said.err
    assert '2 | cmdline = "quiet"' in said.err
    assert "^^^^^^^" in said.err


def test_not_when_only_what_went_wrong_is_wanted(capfd):
    log.configure(quiet=True)
    run._warn(loads(TEXT, "vm.toml").warnings)
    assert capfd.readouterr().err == ""


def test_a_program_gets_a_record(capfd):
    log.configure(form="json")
    run._warn(loads(TEXT, "vm.toml").warnings)
    (line,) = capfd.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["file"], record["line"]) == ("warning", "vm.toml", 2)
    assert record["code"] == "no-console"
