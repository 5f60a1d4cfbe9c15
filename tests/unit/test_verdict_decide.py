"""The verdict: one reason, one status, and words that help; from evidence alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.definition.model import Expect
from runner.supervisor.ending import Ending, Intent
from runner.verdict import panic, symptoms
from runner.verdict.console_text import last_lines, plain_lines
from runner.verdict.cpus import cpu_lines
from runner.verdict.decide import Setting, decide
from runner.verdict.reasons import REASONS

PANIC = b"""\
[    0.90] VFS: Cannot open root device "vda1" or unknown-block(0,0): error -6
[    0.91] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r
[    0.92] CPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0-40-cloud-amd64\r
[    0.93] Call Trace:\r
[    0.94]  <TASK>\r
[    0.95] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\r
"""
SETTING = Setting(cmdline="console=ttyS0", timeout=60.0, memory=1 << 28, serial=True)


def told(reason: str, status: int | None = None, detail: str = "") -> dict[str, object]:
    return {"reason": reason, "status": status, "detail": detail}


def ended(output: bytes = b"", **fields: object) -> Ending:
    given = {"told": None, "intent": None, "output": output, "said": len(output), **fields}
    return Ending(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ending", "reason", "status"),
    [
        (ended(told=told("exit", 0)), "exit", 0),
        (ended(told=told("exit", 7)), "exit", 7),
        (ended(told=told("power-off")), "power-off", 0),
        (ended(told=told("reset")), "reset", 0),
        (ended(told=told("triple-fault")), "triple-fault", 139),
        (ended(told=told("panic")), "panic", 134),
        (ended(told=told("emulation-failure")), "emulation-failure", 70),
        (ended(told=told("host-io")), "host-io", 74),
        (ended(told=told("device-lost")), "device-lost", 74),
        (ended(intent=Intent("deadline")), "deadline", 124),
        (ended(intent=Intent("hang")), "hang", 124),
        (ended(intent=Intent("stopped")), "stopped", 0),
        (ended(intent=Intent("signal", 15)), "signal", 143),
        (ended(intent=Intent("output-closed")), "output-closed", 141),
        (ended(died="killed by SIGKILL"), "engine-died", 70),
    ],
)
def test_each_end_has_its_reason_and_status(ending: Ending, reason: str, status: int) -> None:
    verdict = decide(ending, SETTING)
    assert (verdict.reason, verdict.status) == (reason, status)


@pytest.mark.parametrize("end", ["reset", "power-off", "triple-fault"])
def test_a_panic_on_the_console_is_a_panic_whatever_the_guest_does_then(end: str) -> None:
    verdict = decide(ended(PANIC, told=told(end)), SETTING)
    assert (verdict.reason, verdict.status, verdict.symptom) == ("panic", 134, "no-root")


@pytest.mark.parametrize("reason", ["deadline", "hang"])
def test_a_panic_is_told_apart_from_a_timeout(reason: str) -> None:
    assert decide(ended(PANIC, intent=Intent(reason)), SETTING).reason == "panic"


def test_a_status_that_the_guest_has_handed_over_is_never_searched_for_on_the_console() -> None:
    verdict = decide(ended(PANIC, told=told("exit", 3)), SETTING)
    assert (verdict.reason, verdict.status, verdict.guest_status) == ("exit", 3, 3)


def test_life_after_a_panics_text_means_that_it_was_only_shown() -> None:
    verdict = decide(ended(PANIC + b"root@box:~# \n", told=told("reset")), SETTING)
    assert verdict.reason == "reset"


def test_a_kernel_that_starts_after_a_panic_takes_over() -> None:
    """kdump: the crash kernel's own end counts."""
    output = PANIC + b"[    0.00] Linux version 6.1.0-40-cloud-amd64\n[    1.00] saving vmcore\n"
    assert decide(ended(output, told=told("power-off")), SETTING).reason == "power-off"


def test_a_guest_that_powers_off_when_asked_was_stopped() -> None:
    verdict = decide(ended(told=told("power-off"), intent=Intent("stopped")), SETTING)
    assert (verdict.reason, verdict.status) == ("stopped", 0)


def test_a_guest_that_hands_over_a_status_while_it_is_stopped_has_handed_it_over() -> None:
    verdict = decide(ended(told=told("exit", 9), intent=Intent("stopped")), SETTING)
    assert (verdict.reason, verdict.status) == ("exit", 9)


def test_a_signal_counts_even_when_the_guest_ends_in_the_same_moment() -> None:
    verdict = decide(ended(told=told("power-off"), intent=Intent("signal", 2)), SETTING)
    assert verdict.status == 130


def test_a_process_that_was_killed_is_said_to_be_whatever_its_engine_adds() -> None:
    verdict = decide(
        ended(told=told("engine-died", detail="QEMU said nothing"), died="killed by SIGKILL"), SETTING
    )
    assert "(killed by SIGKILL, QEMU said nothing)" in verdict.words
    assert "somebody killed it" in verdict.hint


def test_a_hang_tells_idle_from_busy() -> None:
    idle = decide(ended(b"x\n", intent=Intent("hang"), silent=30.0, busy=0.001), SETTING)
    busy = decide(ended(b"x\n", intent=Intent("hang"), silent=30.0, busy=0.99), SETTING)
    assert "idle" in idle.words
    assert "busy (99 % of one)" in busy.words


def test_a_silent_guest_without_a_console_in_its_cmdline_gets_that_advice() -> None:
    verdict = decide(ended(intent=Intent("hang"), silent=60.0), SETTING._replace(cmdline="quiet"))
    assert "console=ttyS0" in verdict.hint


def test_what_the_cpus_did_last_is_told() -> None:
    cpus = {
        "cpus": [
            {"rip": "0xffffffff81234567", "rflags": "0x246"},
            {"cpu": 1, "rip": "0x400000", "halted": True},
        ]
    }
    verdict = decide(ended(intent=Intent("deadline"), cpus=cpus), SETTING)
    assert verdict.cpus == (
        "CPU 0: at 0xffffffff81234567, in the kernel, interrupts on",
        "CPU 1: at 0x400000, below the kernel's addresses, halted",
    )


EXPECTED = [
    (Expect(console=("a", "b")), ended(told=told("power-off"), seen=("b", "a")), "power-off", 0),
    (Expect(console=("a", "b")), ended(told=told("power-off"), seen=("a",)), "expectation", 125),
    (Expect(console=("a",)), ended(intent=Intent("deadline"), seen=("a",)), "deadline", 124),
    (Expect(console=("a",)), ended(intent=Intent("deadline")), "expectation", 125),
    (Expect(status=3), ended(told=told("exit", 3)), "exit", 0),
    (Expect(status=0), ended(told=told("exit", 3)), "expectation", 125),
    (Expect(status=0), ended(told=told("power-off")), "expectation", 125),
    (Expect(reason="panic"), ended(told=told("panic")), "panic", 0),
    (Expect(reason="power-off"), ended(told=told("panic")), "expectation", 125),
    # the guest has gone at the power button; or it was ended when it had not
    (Expect(reason="power-off"), ended(intent=Intent("stopped"), told=told("power-off")), "stopped", 0),
    (Expect(reason="power-off"), ended(intent=Intent("stopped"), told=told("stopped")), "expectation", 125),
    (Expect(status=0), ended(intent=Intent("signal", 2)), "signal", 130),
    (Expect(status=0), ended(died="killed by SIGKILL"), "engine-died", 70),
]


@pytest.mark.parametrize(("expect", "ending", "reason", "status"), EXPECTED)
def test_what_was_expected_decides_unless_something_else_ended_the_run(
    expect: Expect, ending: Ending, reason: str, status: int
) -> None:
    verdict = decide(ending, SETTING._replace(expect=expect))
    assert (verdict.reason, verdict.status) == (reason, status)


def test_a_missing_text_is_named_with_how_the_run_ended() -> None:
    verdict = decide(ended(told=told("power-off")), SETTING._replace(expect=Expect(console=("login:",))))
    assert "the console never showed `login:`" in verdict.words
    assert "switched itself off" in verdict.words


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "[1.0] Initramfs unpacking failed: invalid magic at start of compressed archive",
            "initramfs-unpacking",
        ),
        ("[1.0] Kernel panic - not syncing: No working init found.  Try passing init= option", "no-init"),
        ("[1.0] Kernel panic - not syncing: Requested init /sbin/foo failed (error -2).", "no-init"),
        ("[1.0] Run /init as init process Failed to execute /init (error -8)", "init-not-executable"),
        ("[1.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "init-ended"),
        ("[1.0] Out of memory: Killed process 42 (stress)", "out-of-memory"),
        ("[1.0] Kernel panic - not syncing: System is deadlocked on memory", "out-of-memory"),
        ("XZ-compressed data is corrupt", "decompression"),
        ("ALERT!  /dev/vda1 does not exist.  Dropping to a shell!", "dropped-to-initramfs"),
        ("You are in emergency mode. After logging in, type", "emergency-mode"),
        ("[1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000", "bug"),
        ("[1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "lockup"),
        ("debian login: ", "login"),
    ],
)
def test_last_words_that_are_known_are_explained(line: str, name: str) -> None:
    found = symptoms.find([line])
    assert found is not None
    assert found[0].name == name
    assert found[0].hint


def test_lines_are_plain_text_whatever_the_guest_sends() -> None:
    output = b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07old\rnew\r\n\x00\x08ok\xff\n"
    assert plain_lines(output) == ["red", "new", "ok\ufffd", ""]


def test_empty_lines_are_no_last_words() -> None:
    assert last_lines(b"a\r\n\r\nb\r\n\r\n", 2) == ("a", "b")


@given(st.binary(max_size=400))
def test_no_output_makes_the_verdict_fail_or_carries_control_characters(output: bytes) -> None:
    verdict = decide(ended(output, told=told("triple-fault")), SETTING)
    assert all(
        char.isprintable() or char == "\t" or ord(char) >= 0xA0
        for line in verdict.last_lines
        for char in line
    )


@given(st.binary(max_size=300), st.sampled_from([row.name for row in REASONS]))
def test_every_reason_of_the_table_gets_words_and_its_status(output: bytes, reason: str) -> None:
    verdict = decide(ended(output, told=told(reason)), SETTING)
    assert verdict.words
    assert 0 <= verdict.status <= 255


def test_the_last_panic_counts_and_an_unstamped_one_is_found_too() -> None:
    found = panic.find(
        ["Kernel panic - not syncing: first", "x", "Kernel panic - not syncing: second", " trace"]
    )
    assert found == panic.Panic("second", 2, True)


def test_registers_that_cannot_be_read_are_said_so() -> None:
    assert cpu_lines({"cpus": [{"unreadable": "EBADF"}]}) == ["CPU 0: EBADF"]
    assert cpu_lines({"cpus": "nonsense"}) == []
