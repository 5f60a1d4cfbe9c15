"""Tests that need real KVM or VFIO, run in the lab as if they had run here.

A test marked ``guest`` needs a KVM that runs a stock kernel, one marked ``vfio`` a machine
whose devices may be taken away.  Where the host is no such machine, all of them are sent to
one lab (vms/lab.toml), in which a pytest with this same plugin runs them; it writes each
report as a line of JSON into the folder that both share, and this side replays them one by
one, with their captured output and their durations.  A lab that cannot be had is a failure
of each of its tests, never a skip.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MARKS = ("guest", "vfio")
IN_LAB = "VMRUN_IN_LAB"
RESULTS = "VMRUN_LAB_RESULTS"
ALWAYS = "VMRUN_LAB_ALWAYS"  # set: the lab is used even where real KVM is
READER = ("0x1b36", "0x0007")
"""The lab's card reader: a machine that has it is a lab, also one made of real KVM."""

BOOT_SECONDS, TEST_SECONDS = 120, 900
BEAT_SECONDS, SILENT_SECONDS = 5.0, 150.0
"""How often the lab says that it lives, and after which silence it does not."""

LAST_LINES = 30  # of a lab that was given up

MOST_LABS = 3
"""An emulated machine that emulates a hypervisor stands still now and then (decision 0045).  The test that
was under way then has not been run: a new lab runs it, and the summary says so.  What stops two labs has
failed, and so has what stops the third.  A test that fails has failed, whatever the lab does."""


def pytest_configure(config: pytest.Config) -> None:
    results = os.environ.get(RESULTS)
    if os.environ.get(IN_LAB) and results:
        config.pluginmanager.register(Recorder(config, Path(results)), "lab-recorder")
    else:
        config.pluginmanager.register(Bridge(config), "lab-bridge")


class Recorder:
    """Inside: every report goes to the shared folder as it comes."""

    def __init__(self, config: pytest.Config, results: Path) -> None:
        self._config = config
        self._file = results.open("w", buffering=1)
        threading.Thread(target=self._beat, name="lab-beat", daemon=True).start()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            self._write({"beat": time.time()})

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._write({"report": data})

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write({"finished": nodeid})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._write({"end": int(session.exitstatus)})


class Bridge:
    """Outside: sends the lab's tests there and replays what comes back."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._marks = tuple(mark for mark in MARKS if not _runs_here(mark))
        self._batch: list[str] = []
        self._lab: Batch | None = None
        self._died: list[tuple[str, str]] = []  # labs: the test that was under way, and what happened

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The lab's tests come last, so that the quick ones tell first."""
        items.sort(key=self._goes_to_the_lab)
        for item in items:
            if self._goes_to_the_lab(item):
                item.add_marker(pytest.mark.timeout(0))  # the lab's pytest holds the clock

    def _goes_to_the_lab(self, item: pytest.Item) -> bool:
        return any(item.get_closest_marker(mark) for mark in self._marks)

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        self._batch = [item.nodeid for item in session.items if self._goes_to_the_lab(item)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not self._goes_to_the_lab(item):
            return None
        if self._lab is None:
            self._lab = Batch(self._batch, self._config)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item) -> Iterator[Any]:
        assert self._lab is not None
        try:
            found = list(self._lab.reports_of(item.nodeid))
        except LabDiedError as error:
            if not self._another_lab(item, str(error)):
                yield _failed(item, str(error))
            else:
                yield from self._reports(item)
            return
        except LabError as error:
            yield _failed(item, str(error))
            return
        for data in found:
            yield self._config.hook.pytest_report_from_serializable(config=self._config, data=data)

    def _another_lab(self, item: pytest.Item, why: str) -> bool:
        """Start one from this test on; False when this test, or this session, has had its second chance."""
        if len(self._died) + 1 >= MOST_LABS or any(item.nodeid == nodeid for nodeid, _ in self._died):
            return False
        self._died.append((item.nodeid, why))
        assert self._lab is not None
        self._lab.close()
        self._lab = Batch(self._batch[self._batch.index(item.nodeid) :], self._config)
        return True

    def pytest_sessionfinish(self) -> None:
        if self._lab is not None:
            self._lab.close()
            self._lab = None

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for nodeid, why in self._died:
            first, *rest = why.splitlines()
            words = f"a lab was given up and started anew: {nodeid}: {first}"
            terminalreporter.write_line(words, yellow=True)
            for line in rest[-LAST_LINES:]:
                terminalreporter.write_line(f"    {line}")
        if self._batch:
            count = f"{len(self._batch)} test{'s' * (len(self._batch) != 1)}"
            terminalreporter.write_line(f"{count} ran in the lab, since this host has no usable KVM or VFIO")


class LabError(Exception):
    """The lab has not given what it owes, and why."""


class LabDiedError(LabError):
    """The machine itself has ended early, or stands still."""


class Batch:
    """One lab with one pytest in it; its reports by test."""

    def __init__(self, nodeids: list[str], config: pytest.Config) -> None:
        from tests.lab.machine import Lab
        from tests.lab.prepare import prepare

        self.first = nodeids[0]
        self._nodeids = set(nodeids)
        self._heard = 0.0  # when it last said anything
        self._pending: dict[str, list[Any]] = {}
        self._finished: set[str] = set()
        self._text = b""
        self._ended = False
        self._failure = ""
        self._started = time.monotonic()
        self._coverage = _coverage_of_this_process()
        self._lab = Lab(self._command(config))
        (self._lab.folder / "tests").write_text("".join(f"{nodeid}\n" for nodeid in nodeids))
        try:
            prepare(nodeids)
            self._lab.start()
        except Exception as error:  # whatever stops the lab fails its tests
            self._failure = f"the lab could not be started: {error}"

    def _command(self, config: pytest.Config) -> str:
        run = "-m pytest"
        if self._coverage:
            run = f"-m coverage run --parallel-mode --data-file=/lab/coverage {run}"
        options = " --maxfail=1" if config.getoption("maxfail") == 1 else ""
        return f"{RESULTS}=/lab/results exec python {run}{options} @/lab/tests > /lab/pytest 2>&1"

    def reports_of(self, nodeid: str) -> Iterator[Any]:
        """Serialized reports of one test, as they come.  Raises LabError."""
        deadline = time.monotonic() + TEST_SECONDS + BOOT_SECONDS
        while True:
            yield from self._pending.pop(nodeid, [])
            if nodeid in self._finished:
                return
            if self._failure:
                raise LabError(self._failure)
            self._look(nodeid, deadline)

    def _die(self, why: str) -> None:
        raise LabDiedError(f"{why}:\n{self._last_words()}")

    def _look(self, nodeid: str, deadline: float) -> None:
        ended = self._lab.ended()
        now = time.monotonic()
        if self._read():
            self._heard = now
            return
        if self._ended:
            self._failure = f"the lab's pytest has ended without {nodeid}:\n{self._last_words()}"
        elif ended:
            self._die(f"the lab ended early, status {self._lab.status}")
        elif self._heard and now > self._heard + SILENT_SECONDS:
            self._die(f"the lab has been silent for {SILENT_SECONDS:.0f} s")
        elif now > deadline:
            self._die(f"nothing from the lab about {nodeid} for too long")
        else:
            time.sleep(0.1)

    def _read(self) -> bool:
        """Take in what is new in the results; False when there is nothing."""
        try:
            with (self._lab.folder / "results").open("rb") as file:
                file.seek(len(self._text))
                new = file.read()
        except FileNotFoundError:
            return False
        complete = new[: new.rfind(b"\n") + 1]
        self._text += complete
        for line in complete.splitlines():
            self._take(json.loads(line))
        return bool(complete)

    def _take(self, record: dict[str, Any]) -> None:
        if "report" in record:
            self._pending.setdefault(record["report"]["nodeid"], []).append(record["report"])
        elif "finished" in record:
            self._finished.add(record["finished"])
        elif "end" in record:
            self._ended = True

    def _last_words(self) -> str:
        log = self._lab.folder / "pytest"
        said = log.read_text(errors="replace")[-4000:] if log.exists() else ""
        return f"{said}\n{self._lab.said()}".strip()

    def close(self) -> None:
        """Wait for the lab's end, or end it; bring its coverage home."""
        if self._finished >= self._nodeids:
            self._lab.wait(BOOT_SECONDS)
        if self._coverage:
            for file in self._lab.folder.glob("coverage.*"):
                shutil.copy(file, f"{self._coverage}.{file.name}")
        self._lab.close()


def _failed(item: pytest.Item, why: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid, location=item.location, keywords={item.name: 1}, outcome="failed", longrepr=why,
        when="call", sections=[], duration=0.0, start=time.time(), stop=time.time(),
    )  # fmt: skip


def _coverage_of_this_process() -> str:
    """The data file of the coverage run that this pytest is part of, "" when there is none."""
    import coverage

    current = coverage.Coverage.current()
    return str(current.config.data_file) if current else ""


def _runs_here(mark: str) -> bool:
    if os.environ.get(IN_LAB):
        return True
    if os.environ.get(ALWAYS):
        return False
    from runner.host.survey import survey

    if not survey(pci=False, qemu_version=False).kvm.usable:
        return False
    return mark != "vfio" or _has_reader()


def _has_reader() -> bool:
    devices = Path("/sys/bus/pci/devices")
    return devices.exists() and any(
        tuple((each / name).read_text().strip() for name in ("vendor", "device")) == READER
        for each in devices.iterdir()
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A tiny guest needs some /dev/kvm; without one its test fails."""
    if item.get_closest_marker("kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.fail("this test needs /dev/kvm, and there is none that may be opened", pytrace=False)
