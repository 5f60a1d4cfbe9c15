"""A remembered plan is believed only while everything that decided it is the same."""

from __future__ import annotations

import pytest

from runner.definition.load import load
from runner.graph.plan import plan
from runner.hostfacts import HostFacts, KvmFacts
from runner.supervisor import remembered
from runner.supervisor.record import Request

TEXT = (
    'kernel = { deb = "linux-image-cloud-amd64" }\ncpus = 2\nmemory = "256M"\n[rng]\n[initramfs]\n'
    'run = "true"\n'
)
FACTS = HostFacts(cpus=2, kvm=KvmFacts(True, True, 12, "kvm_amd", True, "made up", (), 255))


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    monkeypatch.setenv("VMRUN_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "vm.toml"
    path.write_text(TEXT)
    request = Request(str(path))
    definition = load(request.path, request.settings)
    graph = plan(definition, FACTS)
    remembered.Memory(request).keep(definition, graph, FACTS, passes=False)
    return request, definition, graph, path


def test_the_same_question_gets_the_same_values(request_of):
    request, definition, graph, _ = request_of
    memory = remembered.Memory(request)
    assert memory.passes_devices() is False
    assert memory.recall(FACTS) == (definition, graph)


def test_another_piece_is_a_miss(request_of, tmp_path):
    """A file that the definition extends decides the plan too."""
    request, *_, path = request_of
    piece = tmp_path / "piece.toml"
    piece.write_text("cpus = 1\n")
    path.write_text('extends = "piece.toml"\n' + TEXT.replace("cpus = 2\n", ""))
    definition = load(request.path)
    remembered.Memory(request).keep(definition, plan(definition, FACTS), FACTS, passes=False)
    assert remembered.Memory(request).recall(FACTS).definition == definition
    piece.write_text("cpus = 4\n")
    assert remembered.Memory(request).recall(FACTS) is None


def test_another_text_is_a_miss(request_of):
    request, *_, path = request_of
    path.write_text(TEXT.replace("cpus = 2", "cpus = 1"))
    assert remembered.Memory(request).passes_devices() is None


@pytest.mark.parametrize("change", [{"settings": ("cpus=4",)}, {"engine": ("qemu",)}])
def test_other_words_on_the_command_line_are_a_miss(request_of, change):
    assert remembered.Memory(request_of[0]._replace(**change)).recall(FACTS) is None


@pytest.mark.parametrize(
    "change",
    [{"memlock": 65536}, {"kvm": KvmFacts()}, {"programs": (("passt", "/usr/bin/passt"),)}, {"cpus": 1}],
)
def test_another_host_is_a_miss(request_of, change):
    memory = remembered.Memory(request_of[0])
    assert memory.recall(FACTS._replace(**change)) is None


def test_free_memory_changes_by_itself_and_is_no_miss(request_of):
    assert remembered.Memory(request_of[0]).recall(FACTS._replace(memory_available=1)) is not None


def test_another_home_is_a_miss_because_paths_may_begin_with_it(request_of, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    assert remembered.Memory(request_of[0]).recall(FACTS) is None


def test_another_version_is_a_miss(request_of, monkeypatch):
    monkeypatch.setattr(remembered, "__version__", "99")
    assert remembered.Memory(request_of[0]).recall(FACTS) is None


@pytest.mark.parametrize("room", ["schemas", "definition", "graph", "devices"])
def test_a_changed_source_file_or_schema_is_a_miss(request_of, monkeypatch, room):
    real = remembered._sources()
    assert any(row[0] == room for row in real)
    touched = tuple((*row[:3], row[3] + (row[0] == room)) for row in real)
    monkeypatch.setattr(remembered, "_sources", lambda: touched)
    assert remembered.Memory(request_of[0]).recall(FACTS) is None


@pytest.mark.parametrize("damage", [b"", b"\0", b"i\1\0\0\0", b"junk" * 99])
def test_a_damaged_record_is_a_miss(request_of, damage):
    request, *_ = request_of
    path = remembered.Memory(request)._path
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(damage)
    memory = remembered.Memory(request)
    assert memory.passes_devices() is None
    assert memory.recall(FACTS) is None


def test_a_cache_that_cannot_be_written_remembers_nothing(request_of, monkeypatch):
    request, definition, graph, _ = request_of
    monkeypatch.setenv("VMRUN_CACHE_DIR", "/proc/none")
    memory = remembered.Memory(request)
    memory.keep(definition, graph, FACTS, passes=False)
    assert remembered.Memory(request).recall(FACTS) is None


def test_what_is_warned_of_is_remembered_with_the_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("VMRUN_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "silent.toml"
    path.write_text(TEXT.replace("cpus = 2", 'cmdline = "quiet"\nserial = "tty"'))
    request = Request(str(path))
    definition = load(request.path)
    (warning,) = definition.warnings
    assert (warning.severity, warning.line) == ("warning", 2)
    remembered.Memory(request).keep(definition, plan(definition, FACTS), FACTS, passes=False)
    known = remembered.Memory(request).recall(FACTS)
    assert known is not None
    assert known.definition.warnings == (warning,)
