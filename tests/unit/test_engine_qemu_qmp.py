"""QMP: lines become values however they are cut, and what is no QMP is refused."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine.qemu.qmp import LINE_LIMIT, Answered, Qmp, Told, command
from runner.engine.qemu.registers import cpu_states

STREAM = b"".join(
    json.dumps(message).encode() + b"\r\n"
    for message in (
        {"QMP": {"version": {}, "capabilities": []}},
        {"return": {}, "id": "qmp_capabilities"},
        {"event": "RESUME", "timestamp": {"seconds": 12, "microseconds": 500000}},
        {"return": {"status": "paused"}, "id": "query-status"},
        {"error": {"class": "GenericError", "desc": "no such thing"}, "id": "stop"},
        {"event": "SHUTDOWN", "data": {"reason": "guest-reset"}, "timestamp": {"seconds": 13}},
    )
)
MESSAGES = [
    Answered("qmp_capabilities", {}, ""),
    Told("RESUME", {}, 12.5),
    Answered("query-status", {"status": "paused"}, ""),
    Answered("stop", None, "no such thing"),
    Told("SHUTDOWN", {"reason": "guest-reset"}, 13.0),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_messages_are_the_same_however_the_bytes_are_cut(cuts):
    qmp, told = Qmp(), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        told += qmp.feed(STREAM[start:end])
    assert told == MESSAGES


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b'"x"\n', b"{\n"])
def test_what_is_no_message_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011  # json's own words
        Qmp().feed(line)


def test_a_line_without_an_end_is_not_kept_forever():
    qmp = Qmp()
    qmp.feed(b"x" * LINE_LIMIT)
    with pytest.raises(ValueError, match="line of more than"):
        qmp.feed(b"x")


def test_a_command_carries_its_tag():
    assert json.loads(command("stop")) == {"execute": "stop", "id": "stop"}
    words = command("human-monitor-command", {"command-line": "x"}, tag="registers")
    assert json.loads(words)["id"] == "registers"


DUMP = """
CPU#0
RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000
RIP=ffffffff81a0e11b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
CR0=80050033 CR2=00007f0e5a3c8d50 CR3=0000000002610000 CR4=000006f0

CPU#1
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000000
EIP=0000fff0 EFL=00000002 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
"""


def test_a_register_dump_becomes_what_each_cpu_does():
    assert list(cpu_states(DUMP)) == [
        {"cpu": 0, "rip": "0xffffffff81a0e11b", "cpl": 0, "cr3": "0x0000000002610000", "halted": True},
        {"cpu": 1, "rip": "0x0000fff0", "cpl": 3, "cr3": "0x00000000", "halted": False},
    ]
