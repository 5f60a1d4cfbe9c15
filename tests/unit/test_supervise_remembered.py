"""A remembered plan is believed only while everything that decided it is the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from runner.artifacts.prepare import fetch
from runner.definition.load import load
from runner.graph.plan import plan
from runner.hostfacts import HostFacts, KvmFacts
from runner.supervisor import remembered
from runner.supervisor.record import Request
from tests.unit.tiny_kernels import bzimage, elf

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


@pytest.mark.parametrize("checkout", [False, True])
@pytest.mark.parametrize(
    "changed", ["schemas/vm.schema.json", "schemas/devices/vfio.schema.json", "graph/plan.py"]
)
def test_replaced_files_of_the_package_are_a_miss(request_of, tmp_path, monkeypatch, checkout, changed):
    """In a checkout an edit is seen; in an installed package another file of the same name and version."""
    request, definition, graph, _ = request_of
    package = tmp_path / "lib" / "runner"
    shutil.copytree(remembered.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    if checkout:
        (package.parent / "pyproject.toml").touch()
    monkeypatch.setattr(remembered, "PACKAGE", str(package))
    remembered.Memory(request).keep(definition, graph, FACTS, passes=False)
    assert remembered.Memory(request).recall(FACTS) is not None
    path = package / changed
    text = path.read_text() + "\n"
    if not checkout:
        path.unlink()
    path.write_text(text)
    assert remembered.Memory(request).recall(FACTS) is None


def test_every_module_that_checks_or_plans_lies_in_a_folder_that_decides(tmp_path):
    """Whatever is imported on the way to a plan and its refusals is looked at before one is believed."""
    (tmp_path / "vm.toml").write_text(TEXT + '[disks.d]\npath = "/d"\nformat = "raw"\n')
    program = (
        "import sys\n"
        "from runner.definition.load import load\n"
        "from runner.graph.plan import plan\n"
        "from runner.hostfacts import HostFacts\n"
        "plan(load(sys.argv[1]), HostFacts())\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('runner.')), sep='\\n')\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "vm.toml")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    rooms = {os.path.relpath(os.path.dirname(file), remembered.PACKAGE) for file in said.split()}
    assert rooms - {"."} <= set(remembered.DECIDING)


def test_a_kernel_that_changed_is_taken_although_the_plan_is_remembered(request_of, tmp_path):
    """A plan says which file; what the file holds is looked at by each run anew."""
    _, _, _, path = request_of
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(elf([(0x1000000, 0x1000000, bytes(64), 64)]))
    path.write_text(f'kernel = "{kernel}"\nserial = "off"\n')
    request = Request(str(path))
    definition = load(request.path)
    remembered.Memory(request).keep(definition, plan(definition, FACTS), FACTS, passes=False)
    first = fetch(remembered.Memory(request).recall(FACTS).graph.boot)
    kernel.write_bytes(bzimage())
    second = fetch(remembered.Memory(request).recall(FACTS).graph.boot)
    assert first.kernel_given == second.kernel_given == str(kernel)
    assert first.notes != second.notes


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
