"""``vmrun host`` as a user calls it: what it says, to whom, and with which status."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from pathlib import Path

import pytest

import runner.cli.log
import runner.host.passthrough.by_hand
import runner.host.passthrough.recovery
import runner.host.pci_names
import runner.host.survey
from runner.cli import host
from runner.errors import HostError, UsageError
from runner.host.passthrough.recovery import Restored
from runner.host.pci_names import PciNames
from runner.hostfacts import HostFacts
from tests.unit.test_host_preflight import GOOD, READER


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is told on standard error; the host is the good one of preflight's tests."""
    lines: list[str] = []
    monkeypatch.setattr(runner.cli.log, "tell", lambda level, text: lines.append(f"{level}: {text}"))
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: GOOD)
    monkeypatch.setattr(runner.host.passthrough.by_hand, "pci_facts", lambda _sysfs: GOOD.pci)
    monkeypatch.setenv("VMRUN_STATE_DIR", str(tmp_path))
    return lines


def call(*words: str) -> int:
    parser = ArgumentParser()
    host.add_arguments(parser)
    return host.run(parser.parse_args(words))


@pytest.mark.parametrize("verb", ["bind", "unbind"])
def test_word_that_is_no_address_is_a_wrong_command(verb: str, said: list[str]) -> None:
    """Misspelt, or an address of which a digit is missing."""
    for word in ("reader", "01:00", "1:0.0", "0000:01:00.9", ""):
        with pytest.raises(UsageError, match=f"'{word}' is no PCI address"):
            call(verb, word)
    assert said == []


@pytest.mark.parametrize("verb", ["bind", "unbind"])
def test_address_without_a_function_lists_what_could_be_meant(verb: str, said: list[str]) -> None:
    """Bridges are left out, which nobody means."""
    with pytest.raises(HostError, match=f"no PCI function 0000:09:00.0; there is {READER.address} ") as error:
        call(verb, "09:00.0")
    assert "1c.0" not in str(error.value)
    assert error.value.hint == "vmrun host list shows every function"


def test_unbind_of_what_is_not_bound_says_where_it_is(said: list[str]) -> None:
    with pytest.raises(HostError, match=r"0000:01:00.0 10ec:525a \(rtsx_pci\) is not on vfio-pci"):
        call("unbind", "01:00.0")


@pytest.mark.parametrize(("text", "told"), [("", True), ("10ec  Realtek Semiconductor Co., Ltd.\n", False)])
def test_list_says_why_nothing_has_a_name(
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    told: bool,
) -> None:
    """On standard error, since the table is whole without."""
    monkeypatch.setattr(runner.host.pci_names, "pci_names", lambda _sysfs: PciNames(text))
    assert call("list") == 0
    assert any("pci.ids is not installed (apt install pci.ids)" in line for line in said) == told
    assert ("Realtek" in capsys.readouterr().out) != told


def test_list_as_an_ordinary_user_says_what_root_could(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that only rights are missing for is told apart from one that nobody may have."""
    other = READER._replace(address="0000:02:00.0", iommu_group=8, reset_methods=())
    used = READER._replace(address="0000:03:00.0", iommu_group=9, uses=("mount /",))
    facts = GOOD._replace(euid=1000, pci=(READER, other, used))
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: facts)
    call("list")
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line.startswith("0000:")]
    assert [row[-1] for row in rows] == ["root", "root", "no"]
    assert "    root: only root may take it from rtsx_pci; run as root, or once: sudo vmrun host bind" in text
    assert "    no: the host lives on it: mount /; free it first (umount" in text


def test_list_shows_all_that_match_may_choose_by(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class in digits, the serial number and the slot where there is one."""
    named = READER._replace(serial="00-00-00-01-00-4c-e0-00", slot="3")
    facts = GOOD._replace(pci=(named, READER._replace(address="0000:02:00.0")))
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: facts)
    monkeypatch.setattr(runner.host.pci_names, "pci_names", lambda _sysfs: PciNames(""))
    call("list")
    lines = [line for line in capsys.readouterr().out.splitlines() if "[ff0000]" in line]
    assert lines == [
        "    Unassigned class [ff0000]: Vendor 10ec device 525a; serial 00-00-00-01-00-4c-e0-00; slot 3",
        "    Unassigned class [ff0000]: Vendor 10ec device 525a",
    ]


def test_list_says_why_and_what_mends_it(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a definition may allow is told apart from what nobody may."""
    facts = GOOD._replace(iommu=False, pci=(READER._replace(reset_methods=()),))
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: facts)
    assert call("list") == 0
    text = capsys.readouterr().out
    assert "only if allowed: it offers no reset, " in text
    assert "; [devices.NAME] allow_no_reset = true allows it\n" in text
    assert text.endswith(
        "\nNothing can be passed through from this host now:\n"
        "  this host's IOMMU is off or missing, so no device can be isolated\n"
        "    mend: switch VT-d on in the firmware and boot the kernel with intel_iommu=on\n"
    )
    assert call("list", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["rule"] for one in answer["host"]] == ["iommu-off"]
    assert answer["functions"][0]["passable"] is False


def test_restore_says_what_became_of_each(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Back, gone, or not given back, which alone is a failure."""
    done = [
        Restored("0000:01:00.0", "rtsx_pci", "cardreader", ""),
        Restored("0000:02:00.0", "", "vmrun host bind", ""),
        Restored("0000:03:00.0", "nvme", "", "", gone=True),
        Restored("0000:05:00.0", "nvme", "", "", note="its reset failed: Input/output error"),
    ]
    monkeypatch.setattr(runner.host.passthrough.recovery, "restore_all", lambda: tuple(done))
    assert call("restore") == 0
    done.append(Restored("0000:04:00.0", "nvme", "disk", "0000:04:00.0 is used by process 8"))
    assert call("restore") == 74
    assert said[4:] == [
        "notice: 0000:01:00.0 is back with rtsx_pci (left by cardreader)",
        "notice: 0000:02:00.0 is back with no driver",
        "notice: 0000:03:00.0 is not there any more, so it cannot be given back",
        "warning: 0000:05:00.0 is back with nvme; its reset failed: Input/output error",
        "error: 0000:04:00.0 was not given back: 0000:04:00.0 is used by process 8 (left by disk)",
    ]


@pytest.mark.parametrize(("euid", "others"), [(0, True), (1000, True), (1000, False)])
def test_restore_without_anything_knows_whom_it_speaks_for(
    said: list[str], monkeypatch: pytest.MonkeyPatch, euid: int, others: bool
) -> None:
    """Another user cannot see what root's runs have left, and is told how to look."""
    exists = os.path.exists
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os.path, "exists", lambda path: others if "/run/" in str(path) else exists(path))
    assert call("restore") == 0
    assert ("sudo vmrun host restore" in said[0]) is (euid != 0 and others)
    assert said[0].startswith("notice: nothing is left to give back")


def test_facts_without_functions_are_no_traceback(
    said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container without /sys/bus/pci."""
    monkeypatch.setattr(runner.host.survey, "survey", lambda **_: HostFacts())
    assert call("list") == 0
    assert capsys.readouterr().out.startswith("ADDRESS")
    with pytest.raises(HostError, match="there is none at all"):
        call("bind", "01:00.0")
