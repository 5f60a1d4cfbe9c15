"""What shortens a boot is asked for by name, stands behind the file's own parameters, and is shown."""

from __future__ import annotations

import json

import pytest

from runner.definition.load import load
from runner.graph.plan import plan
from runner.graph.shorter_boot import PARAMETERS
from runner.graph.show import show
from tests.unit.plan_goldens import host

TEXT = 'kernel = "/k"\nserial = "off"\ncmdline = "{cmdline}"\nshorten_boot = {names}\n'


def planned(tmp_path, names, cmdline="quiet  tsc=reliable", engine=("kvm",)):
    path = tmp_path / "vm.toml"
    path.write_text(TEXT.format(cmdline=cmdline, names=json.dumps(list(names))))
    return plan(load(str(path)), host("lab"), engine=engine)


def test_nothing_is_added_that_nobody_asked_for(tmp_path):
    boot = planned(tmp_path, ()).boot
    assert (boot.cmdline, boot.added) == ("quiet  tsc=reliable", ())


@pytest.mark.parametrize("engine", ["kvm", "qemu"])
def test_both_engines_get_the_parameter_behind_the_files_own(tmp_path, engine):
    graph = planned(tmp_path, ("no-crypto-selftests",), engine=(engine,))
    assert graph.boot.cmdline == "quiet  tsc=reliable cryptomgr.notests"
    assert graph.boot.added == (("cryptomgr.notests", "no-crypto-selftests"),)


def test_what_stands_there_already_is_not_said_twice(tmp_path):
    assert planned(tmp_path, PARAMETERS).boot.cmdline.split().count("tsc=reliable") == 1


def test_an_empty_command_line_gets_no_blank_in_front(tmp_path):
    assert planned(tmp_path, ("reliable-tsc",), cmdline="").boot.cmdline == "tsc=reliable"


def test_the_plan_shows_each_with_the_name_that_brought_it(tmp_path):
    lines = show(planned(tmp_path, ("trust-cpu-random",))).splitlines()
    at = next(number for number, line in enumerate(lines) if "cmdline" in line)
    assert lines[at].endswith("cmdline    quiet  tsc=reliable")
    assert lines[at + 1].endswith("+ random.trust_cpu=on  (shorten_boot: trust-cpu-random)")
