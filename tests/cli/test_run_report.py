"""--report, --junit, --timings and --log json; and the verdicts as a user meets them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from runner.cli.run import timing_lines
from tests.cli.test_run_lifecycle import machines, start, vmrun
from tests.cli.test_run_streams import run
from tests.cli.vmrun_on_pty import PATIENCE, ROOT, command, definition, environment

pytestmark = pytest.mark.usefixtures("nothing_left")


def reported(folder: Path) -> dict[str, object]:
    """The report, which fits its schema."""
    report = json.loads((folder / "r.json").read_text())
    jsonschema.validate(report, json.loads((ROOT / "schemas/output/report.schema.json").read_text()))
    return report


@pytest.mark.parametrize(
    ("scenario", "reason", "status"),
    [
        ("hello", "exit", 0),
        ("status7", "exit", 7),
        ("triple", "triple-fault", 139),
        ("unemulated", "emulation-failure", 70),
        ("kvm_fails", "internal-error", 70),
        ("unentered", "entry-failed", 70),
        ("dies", "engine-died", 70),
        ("panic_reset", "panic", 134),
    ],
)
def test_each_run_has_a_report_that_fits_its_schema(
    tmp_path: Path, box: str, scenario: str, reason: str, status: int
) -> None:
    assert run(tmp_path, scenario, box, "--report", "r.json").returncode == status
    report = reported(tmp_path)
    assert (report["reason"], report["status"]) == (reason, status)


def test_a_report_about_a_name_that_is_no_text_is_written(tmp_path: Path) -> None:
    """A folder of another encoding: the report spells its bytes, and reads as the path that it was."""
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    box = definition(folder)
    assert run(tmp_path, "hello", box, "--report", "r.json", "--junit", "r.xml").returncode == 0
    assert reported(tmp_path)["definition"]["path"] == box  # type: ignore[index]
    assert ElementTree.parse(tmp_path / "r.xml").getroot().attrib["tests"] == "1"


def test_a_report_that_fails_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever went wrong on the way, no r.json.PID.new stays behind."""
    from runner.verdict import report

    def interrupted(old: str, new: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.write(str(tmp_path / "r.json"), "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_report_says_what_ran_with_hashes_and_times_in_order(tmp_path: Path, box: str) -> None:
    run(tmp_path, "hello", box, "--report", "r.json")
    report = reported(tmp_path)
    times = report["times_ms"]
    assert isinstance(times, dict)
    assert list(times.values()) == sorted(times.values())
    phases = ["interpreter", "checked", "surveyed", "planned", "fetched", "prepared", "started"]
    assert [phase for phase in times if phase in phases] == phases
    assert times["first-instruction"] <= times["first-console-byte"] <= times["restored"]
    assert report["engine"] == {"name": "kvm", "accelerator": "kvm", "reasons": report["engine"]["reasons"]}  # type: ignore[index]
    assert report["artifacts"][0]["sha256"]  # type: ignore[index]
    assert report["console"]["last_lines"] == ["hello from the guest"]  # type: ignore[index]


def test_a_run_that_never_started_has_a_report_too(tmp_path: Path) -> None:
    box = definition(tmp_path, "nonsense = 1\n")
    assert run(tmp_path, "hello", box, "--report", "r.json").returncode == 65
    report = reported(tmp_path)
    assert (report["reason"], report["status"], report["engine"]) == ("not-started", 65, None)


def test_a_report_that_cannot_be_written_fails_a_good_run_and_no_other(tmp_path: Path, box: str) -> None:
    assert run(tmp_path, "hello", box, "--report", "/dev/full").returncode == 74
    assert run(tmp_path, "status7", box, "--report", "/dev/full").returncode == 7


def test_a_report_is_whole_or_not_there(tmp_path: Path, box: str) -> None:
    run(tmp_path, "hello", box, "--report", "r.json")
    assert [name for name in os.listdir(tmp_path) if name.endswith(".new")] == []


@pytest.mark.parametrize(
    ("scenario", "fault"), [("hello", None), ("panic_reset", "failure"), ("dies", "error")]
)
def test_junit_has_one_test_case_that_fails_as_the_run_did(
    tmp_path: Path, box: str, scenario: str, fault: str | None
) -> None:
    run(tmp_path, scenario, box, "--junit", "r.xml")
    suite = ElementTree.parse(tmp_path / "r.xml").getroot()
    (case,) = suite
    assert case.get("name") == "box"
    faults = [child.tag for child in case if child.tag != "system-out"]
    assert faults == ([fault] if fault else [])


def test_timings_are_told_on_standard_error(tmp_path: Path, box: str) -> None:
    done = run(tmp_path, "hello", box, "--timings", "-q")
    assert re.search(rb"^vmrun: +[\d.]+ ms +\+[\d.]+  first-console-byte$", done.stderr, re.M)


def test_times_of_the_vm_process_are_beside_the_supervisors_and_not_between_them() -> None:
    times = [("planned", 20.0), ("vm-imported", 25.0), ("fetched", 31.0), ("vm-kernel-read", 40.5)]
    assert [line.split() for line in timing_lines(times)] == [
        ["20.0", "ms", "+20.0", "planned"],
        ["25.0", "ms", "+25.0", "vm-imported"],
        ["31.0", "ms", "+11.0", "fetched"],
        ["40.5", "ms", "+15.5", "vm-kernel-read"],
    ]


def test_log_json_is_json_line_by_line(tmp_path: Path, box: str) -> None:
    lines = run(tmp_path, "panic_reset", box, "--log", "json").stderr.splitlines()
    events = [json.loads(line) for line in lines]
    assert any("engine kvm" in event["event"] for event in events)
    assert any(event["level"] == "error" for event in events)


def test_a_panic_without_pvpanic_ends_the_run_by_itself(tmp_path: Path, box: str) -> None:
    """Its closing line, then silence with a CPU that spins: no need to wait for a deadline."""
    done = run(tmp_path, "panic", box, "--timeout", "60s")
    assert done.returncode == 134
    assert b"the guest kernel panicked: VFS: Unable to mount root fs" in done.stderr
    assert b"CPU 0: at 0xffffffff81000000, in the kernel" in done.stderr


def test_an_old_panic_that_is_only_shown_does_not_end_a_living_guest(tmp_path: Path, box: str) -> None:
    assert run(tmp_path, "old_log", box).returncode == 0


def test_a_deadline_while_the_guest_works_is_told_apart_from_a_hang(tmp_path: Path, box: str) -> None:
    working = run(tmp_path, "working", box, "--timeout", "1s")
    assert (working.returncode, b"still working" in working.stderr) == (124, True)
    idle = run(tmp_path, "idle", box, "--timeout", "1s")
    assert idle.returncode == 124
    assert b"had been silent" in idle.stderr
    assert b"CPUs were idle" in idle.stderr
    spinning = run(tmp_path, "spin", box, "--timeout", "1s")
    assert spinning.returncode == 124
    assert b"has not said a word; its CPUs were busy" in spinning.stderr
    assert b"CPU 0: at 0xffffffff81000000" in spinning.stderr


def test_a_deadline_in_the_file_counts_and_timeout_0_lifts_it(tmp_path: Path) -> None:
    box = definition(tmp_path, 'timeout = "500ms"\n')
    assert run(tmp_path, "idle", box).returncode == 124
    done = subprocess.run(
        ["timeout", "--preserve-status", "-s", "INT", "2", *command("idle", box, "--timeout", "0")],
        check=False,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 130


def test_expect_stop_ends_a_guest_that_has_shown_what_was_expected(tmp_path: Path) -> None:
    box = definition(tmp_path, '[expect]\nconsole = ["ready"]\nstop = true\n')
    done = run(tmp_path, "polite", box, "--report", "r.json")
    assert done.returncode == 0
    assert reported(tmp_path)["reason"] == "stopped"


def test_an_expectation_that_is_not_met_has_a_status_of_its_own(tmp_path: Path) -> None:
    box = definition(tmp_path, '[expect]\nconsole = ["login:"]\n')
    done = run(tmp_path, "hello", box)
    assert done.returncode == 125
    assert b"the console never showed `login:`" in done.stderr


LENT = """
[devices.reader]
driver = "vfio"
host = "0000:01:00.0"
{}"""


@pytest.mark.parametrize("time", ["first", "with the plan remembered"])
def test_what_the_plan_has_against_lending_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, time: str
) -> None:
    """All of it, with the status of a host that cannot; the fetching here would take half a minute."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    box = definition(tmp_path, LENT.format("allow_no_reset = true\n"))
    if time != "first":
        run(tmp_path, "slow_fetch", box)
    done = run(tmp_path, "slow_fetch", box, "--report", "r.json")
    assert done.returncode == 69
    assert reported(tmp_path)["status"] == 69
    assert b"fetching" not in done.stderr
    assert b"3 things stand against passing devices through" in done.stderr
    for words in (b"IOMMU is off", b"modprobe vfio_pci", b"modprobe vfio_iommu_type1"):
        assert words in done.stderr


def test_ps_json_fits_its_schema(tmp_path: Path, box: str) -> None:
    start(tmp_path, "idle", box)
    try:
        schema = json.loads((ROOT / "schemas/output/ps.schema.json").read_text())
        jsonschema.validate(json.loads(vmrun(tmp_path, "ps", "--json").stdout), schema)
        assert len(machines(tmp_path)) == 1
    finally:
        vmrun(tmp_path, "stop", "box", "--now")


def test_what_no_engine_can_do_on_any_host_ends_the_run_before_anything_is_fetched(tmp_path: Path) -> None:
    key = 'engine = "kvm"\ncpus = { count = 1, features = ["+npt"] }\n'
    box = definition(tmp_path, key + '[devices.reader]\ndriver = "sdhci-pci"\nblank = "1M"\n')
    done = run(tmp_path, "slow_fetch", box, "--report", "r.json")
    assert done.returncode == 65
    feature = done.stderr.index(b"box.toml:5:33: error: the engine kvm knows no CPU feature `npt`")
    assert done.stderr.index(b"box.toml:6:10: error: the engine kvm has no `reader` (sdhci_pci)") > feature
    assert b'expected: engine = "qemu"' in done.stderr
    assert b"fetching" not in done.stderr
    assert reported(tmp_path)["status"] == 65


def test_what_this_hosts_engines_cannot_do_is_the_hosts_fault(tmp_path: Path) -> None:
    box = definition(tmp_path, "cpus = 9\n")
    done = run(tmp_path, "slow_fetch", box)
    assert done.returncode == 69
    assert b"this host's KVM gives a machine at most 8 CPUs, and it has 9" in done.stderr
    assert b"fetching" not in done.stderr


def test_a_cpu_that_the_host_has_not_ends_the_run_before_anything_is_fetched(tmp_path: Path) -> None:
    box = definition(tmp_path, "[cpus]\ncount = 1\naffinity = [[8191]]\n")
    done = run(tmp_path, "slow_fetch", box)
    assert done.returncode == 69
    assert b"vCPU 0 is to run on CPU 8191 of this host, which is not there" in done.stderr
    assert b"fetching" not in done.stderr
