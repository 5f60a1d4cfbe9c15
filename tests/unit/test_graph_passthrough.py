"""What the plan says of passed-through functions, from stored host facts and without the hardware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.definition.load import load
from runner.errors import HostPermissionError
from runner.graph import passthrough
from runner.graph.encode import from_json, to_json
from runner.graph.model import Graph
from runner.graph.plan import plan
from runner.graph.show import show
from runner.graph.svg import svg
from runner.hostfacts import HostFacts
from runner.lending.findings import Refused
from tests.unit.plan_goldens import GOLDEN

LAPTOP = from_json(HostFacts, json.loads((GOLDEN / "hosts" / "laptop.json").read_text()))
ROOT = LAPTOP._replace(euid=0, memlock=None)
TEXT = """
kernel = "vmlinux"
memory = "{memory}"
[devices.reader]
driver = "vfio"
match = {{ vendor = "10ec", device = "525a" }}
"""


def planned(tmp_path: Path, facts: HostFacts, more: str = "", memory: str = "512M") -> Graph:
    file = tmp_path / "machine.toml"
    file.write_text(TEXT.format(memory=memory) + more)
    return plan(load(str(file)), facts, engine=("kvm",))


def test_plan_tells_what_would_be_refused(tmp_path: Path) -> None:
    """Every finding of preflight on the facts' host, each with what mends it, in text, JSON and picture."""
    graph = planned(tmp_path, LAPTOP)
    memlock, root = graph.refusals
    assert "this user may lock 8 MiB" in memlock
    assert "ulimit -l 524288" in memlock
    assert root.startswith("devices.reader: only root may take 0000:01:00.0 from rtsx_pci; run as root")
    assert memlock in show(graph)
    assert "refused on this host" in show(graph)
    assert memlock in str(to_json(graph))
    assert "refused on this host" in svg(graph)


def test_a_run_is_refused_for_the_same_with_the_status_of_what_is_missing(tmp_path: Path) -> None:
    """Where rights are all that is missing the error is one of rights, so that a script knows about sudo."""
    planned(tmp_path, LAPTOP)
    entries = load(str(tmp_path / "machine.toml")).devices
    with pytest.raises(Refused, match="2 things stand against"):
        passthrough.refuse(entries, 512 << 20, LAPTOP)
    with pytest.raises(HostPermissionError, match=r"only root may take 0000:01:00\.0"):
        passthrough.refuse(entries, 512 << 20, LAPTOP._replace(memlock=None))
    passthrough.refuse(entries, 512 << 20, ROOT)


def test_plan_of_a_host_that_lends_refuses_nothing(tmp_path: Path) -> None:
    assert planned(tmp_path, ROOT).refusals == ()
    assert "refused" not in show(planned(tmp_path, ROOT))


def test_memory_is_held_against_the_iommus_width_with_its_hole(tmp_path: Path) -> None:
    """The last address counts: 4 GiB of memory end at 5 GiB."""
    narrow = ROOT._replace(iova_bits=32)
    assert planned(tmp_path, narrow, memory="2G").refusals == ()
    (refusal,) = planned(tmp_path, narrow, memory="4G").refusals
    assert "ends at 0x140000000, beyond the IOMMU's 32 address bits" in refusal


def test_plan_says_what_only_root_sees(tmp_path: Path) -> None:
    reader = next(one for one in ROOT.pci if one.vendor == "10ec")._replace(capabilities_known=False)
    notes = planned(tmp_path, ROOT._replace(pci=(reader,))).notes
    assert "only root sees how many message vectors `reader` has: there is room for some" in notes


def test_plan_says_who_else_is_in_the_group(tmp_path: Path) -> None:
    """Other members are named with their drivers, from which nobody takes them, and stand against the run."""
    other = next(one for one in ROOT.pci if one.vendor == "10ec")._replace(
        address="0000:01:00.1", device="0001", driver="snd_hda_intel"
    )
    graph = planned(tmp_path, ROOT._replace(pci=(*ROOT.pci, other)))
    assert "0000:01:00.1 (10ec:0001) is in the same group, on snd_hda_intel" in graph.notes
    assert any("shares IOMMU group 11 with 0000:01:00.1" in refusal for refusal in graph.refusals)
