"""Each event that a device logs is a sentence for the person who reads it."""

from __future__ import annotations

import ast
from pathlib import Path
from string import Formatter

from runner.supervisor.device_events import SENTENCES, told

RUNNER = Path(__file__).resolve().parents[2] / "runner"
THROUGH_VIRTIO = ("virtio_transport.py", "virtio_offload.py", "virtio_blk.py", "virtio_pmem.py")
ADDED = {file: {"device"} for file in THROUGH_VIRTIO}  # by runner.bus.virtio_pci


def _logged() -> list[tuple[str, str, set[str]]]:
    """(file, event, facts) of every `….log(level, "event", facts…)` of devices, buses and backends."""
    found = []
    for path in sorted(p for room in ("devices", "bus", "backends") for p in (RUNNER / room).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            if isinstance(call.func, ast.Attribute) and call.func.attr == "log":
                event = call.args[1]
                if isinstance(event, ast.Constant):
                    facts = {str(word.arg) for word in call.keywords}
                    found.append((path.name, str(event.value), facts | ADDED.get(path.name, set())))
    return found


def test_each_logged_event_has_a_sentence_and_the_facts_for_it():
    logged = _logged()
    assert {event for _, event, _ in logged} == set(SENTENCES)
    for file, event, facts in logged:
        wanted = {name for _, name, _, _ in Formatter().parse(SENTENCES[event]) if name}
        assert wanted <= facts, (file, event)


def test_a_person_reads_a_sentence_and_a_program_the_event():
    data = {"level": "warning", "event": "disk-error", "device": "root", "request": "write", "reason": "full"}
    level, words, fields = told(data)
    assert (level, words) == ("warning", "disk `root`: write failed: full")
    assert fields["kind"] == "disk-error"


def test_words_and_incomplete_facts_are_told_as_they_are():
    assert told({"level": "error", "event": "a {word}", "x": 1}) == ("error", "a {word}", {"x": 1})
    assert told({"event": "disk-error"}) == ("info", "disk-error", {})
