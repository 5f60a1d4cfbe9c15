"""Each way a guest can end under QEMU has its own reason, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from runner.definition.model import Cpus, Memory
from runner.errors import DefinitionError, HostError
from runner.graph.engines import WITHOUT_FEATURE
from tests.kvm import tiny
from tests.kvm.run import SECONDS
from tests.qemu.conftest import node

PVPANIC = 0x505


def test_the_exit_port_carries_all_eight_bits(boot):
    end = boot(tiny.exit_with(203)).end()
    assert (end["reason"], end["status"]) == ("exit", 203)


def test_power_off_by_acpi(boot):
    code = tiny.outw(tiny.PM1_CONTROL, 1 << 13) + tiny.IDLE
    assert boot(code).end()["reason"] == "power-off"


@pytest.mark.parametrize(("port", "value"), [(tiny.I8042, 0xFE), (tiny.RESET_PORT, 6)])
def test_reset_by_each_register(boot, port, value):
    assert boot(tiny.outb(port, value) + tiny.IDLE).end()["reason"] == "reset"


def test_a_fault_without_handlers_is_a_triple_fault(boot):
    code = tiny.store32(tiny.BASE + 0x1000, 0) + tiny.lidt(tiny.BASE + 0x1000) + tiny.UD2
    assert boot(code).end()["reason"] == "triple-fault"


def test_the_panic_port_is_a_panic(boot):
    assert boot(tiny.outb(PVPANIC, 1) + tiny.IDLE).end()["reason"] == "panic"


def test_output_that_came_before_the_end_is_all_there_and_nothing_else(boot):
    run = boot(tiny.say(b"last words, no newline") + tiny.exit_with(0))
    run.end()
    assert run.output == b"last words, no newline"


def test_the_first_instruction_is_told_with_its_time(boot):
    before = time.monotonic_ns()
    run = boot(tiny.exit_with(0))
    run.end()
    (phase,) = run.told("phase")
    assert phase["name"] == "first-instruction"
    assert before < phase["at_ns"] < time.monotonic_ns()


def test_pause_and_resume_are_told(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN)
    run.until(lambda: run.output == b"x")
    run.process.ask("pause")
    run.until(lambda: run.told("state")[-1] == {"state": "paused"})
    run.process.ask("resume")
    run.until(lambda: run.told("state")[-1] == {"state": "running"})


def test_a_reset_that_we_ask_for_starts_the_guest_again(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN)
    run.until(lambda: run.output == b"x")
    run.process.ask("reset")
    run.until(lambda: run.output == b"xx")
    assert not run.told("end")


def test_what_the_cpus_do_is_told_for_each_of_them(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN, cpus=Cpus(2, 1, 2, 1))
    run.until(lambda: run.output == b"x")
    run.process.ask("snapshot-state")
    run.until(lambda: any("cpus" in log for log in run.told("log")))
    first, second = next(log["cpus"] for log in run.told("log") if "cpus" in log)
    assert tiny.BASE <= int(first["rip"], 16) < tiny.BASE + 0x1000
    assert not first["halted"]
    assert second["halted"]


def test_quit_ends_a_spinning_guest_as_stopped(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN)
    run.until(lambda: run.output == b"x")
    run.process.ask("quit")
    assert run.end()["reason"] == "stopped"


def test_killing_qemu_is_told_as_a_death_without_a_word(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN)
    run.until(lambda: run.output == b"x")
    os.kill(run.process.pid, signal.SIGKILL)
    assert run.end()["reason"] == "engine-died"


def test_huge_pages_that_are_not_there_are_a_fault_of_the_host_with_the_command_that_mends_it(boot):
    with pytest.raises(HostError, match=r"does not start: .*Cannot allocate memory$") as caught:
        boot(tiny.SPIN, memory=Memory(1 << 40, hugepages="2M"))
    assert caught.value.status == 69
    assert caught.value.hint == "echo 524288 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"


def test_more_memory_than_there_is_is_a_fault_of_the_host(boot):
    with pytest.raises(HostError, match="Cannot allocate memory") as caught:
        boot(tiny.SPIN, memory=Memory(300 << 40))
    assert caught.value.status == 69


@pytest.mark.parametrize(
    ("cpus", "words"),
    [
        (Cpus(1, model="NoSuchModel"), "cpus.model: QEMU knows no CPU model `NoSuchModel`"),
        (Cpus(1, features=("-svm", "+nosuch")), "cpus.features: QEMU knows no CPU feature `nosuch`"),
        (Cpus(1, features=("+level",)), "cpus.features: QEMU knows no CPU feature `level`"),
    ],
)
def test_a_cpu_that_qemu_has_not_is_a_fault_of_the_definition(boot, cpus, words):
    with pytest.raises(DefinitionError) as caught:
        boot(tiny.SPIN, cpus=cpus)
    assert str(caught.value) == words
    assert caught.value.status == 65


def test_a_feature_that_the_cpu_would_not_have_is_refused_and_qemu_does_not_go_on(boot):
    before = children()
    with pytest.raises(DefinitionError) as caught:
        boot(tiny.SPIN, cpus=Cpus(1, features=("+avx2", "+avx512f")))
    assert str(caught.value) == "cpus.features: QEMU's emulation does not offer `avx512f` to guests"
    assert caught.value.hint == WITHOUT_FEATURE
    assert children() == before


def test_what_a_named_model_would_have_more_is_not_refused(boot):
    run = boot(tiny.exit_with(1), cpus=Cpus(1, model="Skylake-Server", features=("+aes",)))
    assert run.end()["reason"] == "exit", run.events
    assert any("requested feature" in str(event) for event in run.events)


def test_a_qemu_that_does_not_start_is_not_left_behind(boot):
    before = children()
    with pytest.raises(DefinitionError):
        boot(tiny.SPIN, cpus=Cpus(1, model="NoSuchModel"))
    assert children() == before


def children() -> str:
    task = f"/proc/{os.getpid()}/task/{os.getpid()}"
    with open(f"{task}/children") as listed:
        return listed.read()


def test_vcpus_are_placed_before_the_first_instruction(boot):
    run = boot(tiny.say(b"x") + tiny.SPIN, cpus=Cpus(1, affinity=((0,),)))
    run.until(lambda: run.output == b"x")
    threads = f"/proc/{run.process.pid}/task"
    names = {}
    for thread in os.listdir(threads):
        with open(f"{threads}/{thread}/comm") as comm:
            names[comm.read().strip()] = int(thread)
    assert os.sched_getaffinity(names["CPU 0/TCG"]) == {0}


def test_qemu_dies_with_the_process_that_started_it(tmp_path):
    script = f"""
import os, socket, sys
sys.path.insert(0, {os.getcwd()!r})
from runner.engine.protocol import Resources
from runner.graph.model import BootFiles
from runner.engine.qemu import QemuEngine
from tests.kvm import tiny
from tests.qemu.conftest import graph, pvh
path = {str(tmp_path / "kernel")!r}
open(path, "wb").write(pvh(tiny.SPIN))
ours, theirs = socket.socketpair()
process = QemuEngine().start(graph(), BootFiles(path, path, None), Resources({{"serial": theirs.fileno()}}))
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=SECONDS)
    pid = int(told.stdout)
    deadline = time.monotonic() + SECONDS
    while os.path.exists(f"/proc/{pid}") and not _is_zombie(pid):
        assert time.monotonic() < deadline, "QEMU outlived the process that started it"
        time.sleep(0.05)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_every_device_of_the_lab_is_accepted_by_qemu(boot):
    """Two readers, a disk below a root port: ids, buses and slots are spelled as QEMU wants them."""

    def at(slot: str, each, bus: str = ""):
        pci = each.claim.pci._replace(slot=slot, bus=bus)
        return each._replace(claim=each.claim._replace(pci=pci))

    blank = {"blank": 64 << 20}
    shared = {"path": {"text": "/", "resolved": "/"}, "readonly": True, "tag": "host"}
    run = boot(
        tiny.exit_with(1),
        at("00:05.0", node("sdhci_pci", "reader", "devices", blank)),
        at("00:06.0", node("sdhci_pci", "second", "devices", blank)),
        at("01:00.0", node("nvme", "below", "devices", {**blank, "serial": "a,b"}), "port"),
        at("00:07.0", node("pcie_root_port", "port", "devices")),
        at("00:08.0", node("e1000e", "card", "devices", {"mac": "52:54:00:00:00:01"})),
        at("00:09.0", node("qemu_xhci", "usb", "devices")),
        at("00:0b.0", node("qemu_xhci", "other", "devices", {"messages": "msi"})),
        at("00:0a.0", node("virtio_9p", "host", "fs", shared)),
        cpus=Cpus(2, 1, 2, 1, model="EPYC", features=("+svm", "+npt")),
        machine={"iommu": {"model": "intel", "interrupt_remapping": True}},
    )
    assert run.end()["reason"] == "exit", run.events
