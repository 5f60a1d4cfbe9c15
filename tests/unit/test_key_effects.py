"""Every key of a definition does something on every engine that takes it.

What is looked at: the plan's decisions (not the copy of what the file says), what the supervisor opens
and starts, the words for QEMU, and on our own engine the ACPI tables, the CPUs' CPUID, the memory as it
is made, and each device as it is built.  Where a key works beyond these, the test that covers it there
is named.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from runner.backends import Opened, char, qcow2, vhost_user, virtiofs
from runner.definition.load import load
from runner.definition.model import Definition
from runner.definition.schema import schema_text
from runner.engine.kvm import loading
from runner.engine.kvm.cpuid import guest_cpuid
from runner.engine.protocol import Resources
from runner.engine.qemu.arguments import CONTROL, EXIT_PORT, RESET_LOG, arguments
from runner.errors import HostError, VmrunError
from runner.firmware import acpi
from runner.graph.encode import to_json
from runner.graph.engines import NEEDS, lacks, modules_of
from runner.graph.model import BackendClaim, BootFiles, Graph, Node
from runner.graph.plan import plan
from runner.host import helper_process, tap
from runner.host.kvm import CpuidEntry
from runner.hostfacts import HostFacts
from runner.light import import_module
from runner.supervisor.openers import Backends
from tests.unit.key_changes import CHANGES, HEAD, KERNEL
from tests.unit.plan_goldens import CHECKOUT, host

PREPARE, PACKAGES, INITRAMFS = (
    f"tests/unit/test_artifacts_{name}.py::test_" for name in ("prepare", "packages", "initramfs")
)
REPORT = "tests/cli/test_run_report.py::test_"
ONE_VALUE = "it has one value, and every other is refused"
REFUSED = "tests/unit/test_definition_broken.py::test_every_fault_is_told_where_it_is"
FETCHED = "it decides which files are booted, before any engine"
JUDGED = "it decides what the end of a run means, whatever the engine"

COVERED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "kernel": (("kvm", "qemu"), FETCHED, PREPARE + "other_words_are_other_files"),
    "kernel.deb": (("kvm", "qemu"), FETCHED, PACKAGES + "a_metapackage_is_followed_to_its_kernel"),
    "kernel.version": (("kvm", "qemu"), FETCHED, PACKAGES + "a_version_pins"),
    "kernel.url": (("kvm", "qemu"), FETCHED, PACKAGES + "an_address_is_fetched_once_and_checked"),
    "kernel.sha256": (("kvm", "qemu"), FETCHED, PACKAGES + "another_hash_is_refused_with_both"),
    "initramfs": (("kvm", "qemu"), FETCHED, PREPARE + "a_given_initramfs_is_only_checked"),
    "initramfs.run": (("kvm", "qemu"), FETCHED, INITRAMFS + "init_hands_over_the_status_of_the_command"),
    "initramfs.modules": (("kvm", "qemu"), FETCHED, INITRAMFS + "modules_are_where_modprobe_looks"),
    "initramfs.files": (
        ("kvm", "qemu"), FETCHED, INITRAMFS + "files_keep_their_mode_and_directories_come_whole",
    ),
    "initramfs.root": (("kvm", "qemu"), FETCHED, INITRAMFS + "root_is_mounted_as_the_command_line_says"),
    "initramfs.busybox": (("kvm", "qemu"), FETCHED, PREPARE + "a_changed_input_is_noticed"),
    "cpus.affinity": (
        ("kvm", "qemu"), "threads are placed when they run",
        "tests/kvm/test_cpu.py::test_vcpus_run_where_they_are_placed "
        "tests/qemu/test_endings.py::test_vcpus_are_placed_before_the_first_instruction",
    ),
    "disks.serial": (
        ("kvm",), "the native queue answers with it, which no attribute of the device has",
        "tests/unit/test_virtio_blk.py::test_the_serial_number_fills_what_room_there_is",
    ),
    "memory.merge": (
        ("kvm",), "it is advice to the kernel",
        "tests/kvm/test_endings.py::test_a_host_that_merges_no_pages_is_told",
    ),
    "accelerator": (
        ("kvm",), "our own engine always has KVM",
        "tests/unit/test_engine_qemu_arguments.py::test_our_engine_is_no_less_kvm_than_qemus",
    ),
    "timeout": (("kvm", "qemu"), JUDGED, REPORT + "a_deadline_in_the_file_counts_and_timeout_0_lifts_it"),
    "expect": (("kvm", "qemu"), JUDGED, REPORT + "an_expectation_that_is_not_met_has_a_status_of_its_own"),
    "expect.console": (
        ("kvm", "qemu"), JUDGED, REPORT + "an_expectation_that_is_not_met_has_a_status_of_its_own",
    ),
    "expect.reason": (
        ("kvm", "qemu"), JUDGED,
        "tests/unit/test_verdict_decide.py::test_what_was_expected_decides_unless_something_else_ended_the_run",
    ),
    "expect.status": (
        ("kvm", "qemu"), JUDGED,
        "tests/unit/test_verdict_decide.py::test_what_was_expected_decides_unless_something_else_ended_the_run",
    ),
    "expect.stop": (
        ("kvm", "qemu"), JUDGED, REPORT + "expect_stop_ends_a_guest_that_has_shown_what_was_expected",
    ),
    "params.description": (
        ("kvm", "qemu"), "it is told where a value is missing",
        "tests/unit/test_definition_extends.py::test_a_parameter_without_a_value_has_to_be_given_one",
    ),
    "iommu.model": (("qemu",), ONE_VALUE, REFUSED),
    "disks.bus": (("kvm", "qemu"), ONE_VALUE, REFUSED),
}  # fmt: skip
"""Key to the engines on which it does nothing that is looked at here, why, and the tests that cover it."""

SCHEMA: dict[str, Any] = json.loads(schema_text())
FILES = BootFiles("/cache/vmlinux", "/cache/vmlinuz", "/cache/initramfs.cpio")
OFFER = [
    CpuidEntry(leaf, 0, 0, 0x1C004121, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    for leaf in (0, 1, 4, 7, 0xB, 0x80000001, 0x80000008, 0x8000001E)
]
OPENED = ("block", "scratch", "pmem", "tap", "passt", "virtiofs", "folder", "hybrid-vsock")
"""Backends that are opened as a run does; others are nodes in /dev, whose keys are seen elsewhere."""
COPIES = ("source", "digest", "name", "boot", "cpus", "memory", "timeout", "machine")
"""What of a graph is the file's own words."""


def keys() -> Iterator[str]:
    """Every key of the schema, without names that the user gives; the kind where a section has several."""
    for section, part in SCHEMA["properties"].items():
        yield section
        variants = part.get("additionalProperties", {})
        kinds = variants.get("oneOf", []) if isinstance(variants, dict) else []
        kinds = [kind for kind in kinds if "$ref" in kind]
        for kind in kinds:
            name = kind["$ref"].rpartition("/")[2]
            yield from below(kind, f"{section}({name})")
        if not kinds:
            yield from below(part, section)


def below(schema: Any, place: str, seen: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref", "").rpartition("/")[2]
    if reference and reference not in seen:
        yield from below(SCHEMA["definitions"][reference], place, (*seen, reference))
    for name, part in schema.get("properties", {}).items():
        yield f"{place}.{name}"
        yield from below(part, f"{place}.{name}", seen)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(keyword, ()):
            yield from below(part, place, seen)
    for keyword in ("additionalProperties", "items"):
        yield from below(schema.get(keyword), place, seen)


KEYS = tuple(dict.fromkeys(keys()))


def definition(text: str, folder: Path) -> Definition:
    """The text as a file, with what has to be said and is not."""
    whole = text
    for key, line in (("cmdline", HEAD), ("kernel", KERNEL)):
        whole = whole if re.search(rf"^{key}\b", text, re.MULTILINE) else line + whole
    (folder / "piece.toml").write_text("cpus = 3\n")
    for name in ("src", "lib"):
        (folder / name).mkdir(exist_ok=True)
    for letter in ("root", "other", "c", "d", "e"):
        with (folder / f"{letter}.img").open("wb") as image:
            image.truncate(128 << 20)
    (folder / "x.toml").write_text(whole)
    return load(str(folder / "x.toml"))


def facts() -> HostFacts:
    """A host on which a passed function can be told by everything that a definition can say of it."""
    laptop = host("laptop")
    slots = {"0000:01:00.0": "3", "0000:3d:00.0": "4"}
    functions = tuple(one._replace(slot=slots.get(one.address, "")) for one in laptop.pci)
    functions = tuple(
        one._replace(rom_size=0x10000, reset_methods=()) if one.slot == "3" else one for one in functions
    )
    return laptop._replace(pci=functions, interrupt_remapping=False)


def decisions(graph: Graph) -> Any:
    """The plan without the copies of what the file says."""
    found: Any = to_json(graph)
    for name in COPIES:
        del found[name]
    for node in found["nodes"]:
        del node["options"]
        for backend in node["claim"]["backends"]:
            del backend["options"]
    return found


def words(graph: Graph) -> list[str]:
    """QEMU's command line with a descriptor for each backend."""
    names = [claim.name for node in graph.nodes for claim in node.claim.backends]
    fds = {name: number for number, name in enumerate(dict.fromkeys(names), start=10)}
    return arguments(graph, FILES, Resources({**fds, CONTROL: 3, EXIT_PORT: 4, RESET_LOG: 5}))


def backend_of(claim: BackendClaim) -> Any:
    """The host's end, as far as a device asks for its facts."""
    match claim.kind:
        case "block":
            shape = {"capacity": 1 << 30, "block_size": 512, "sector": 512, "discards": True}
            shape |= {"features": (1 << 64) - 1, "config": b""}  # all that the device asks for
            return SimpleNamespace(**shape, readonly=bool(claim.options.get("readonly")))
        case "tap" | "passt":
            return SimpleNamespace(offloads=claim.kind == "tap", queues=[])
        case "vhost-net":
            return None
        case "virtiofs" | "vhost-vsock":
            return MagicMock(features=0, config=b"")
    found = MagicMock()
    del found.kick  # the rings are served by the device
    return found


def is_plain(value: Any) -> bool:
    return all(map(is_plain, value)) if isinstance(value, tuple) else isinstance(value, int | str | bytes)


def built(node: Node) -> Any:
    """What our own engine makes of a device: the plain values of its model."""
    module = import_module(f"runner.devices.{node.kind}")
    if node.kind in ("vfio", "pci_host"):
        return None  # the claim has decided it all
    at = MagicMock()
    at.backend = lambda name: backend_of(next(one for one in node.claim.backends if one.name == name))
    made = module.build(node, at)
    model = made.transport.device if hasattr(made, "transport") else made
    values = {
        name: getattr(model, name, None) for name in ("config", "features", "queue_sizes", *vars(model))
    }
    return node.name, {name: value for name, value in values.items() if is_plain(value)}


class Opening:
    """The supervisor's half: which files it opens and how, which programs and interfaces it starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[Any] = []
        for name in ("open_file", "SocketEndpoint", "PtyEndpoint", "NullEndpoint"):
            monkeypatch.setattr(char, name, self._character(name))
        for name in ("make_readonly", "confine"):
            monkeypatch.setattr(helper_process, name, lambda *_, name=name: self.told.append(name))
        monkeypatch.setattr(helper_process, "find", lambda program, package: f"/usr/bin/{program}")
        monkeypatch.setattr(helper_process, "start", self._start)
        monkeypatch.setattr(virtiofs, "is_rust", lambda program: True)
        monkeypatch.setattr(vhost_user, "serve", self._serve)
        monkeypatch.setattr(qcow2, "refuse_references", lambda fd, name: SimpleNamespace(size=1 << 20))
        monkeypatch.setattr(tap, "exists", lambda name: False)
        monkeypatch.setattr(tap, "open_queues", lambda *words: (self.told.append(words), ("tap0", []))[1])
        monkeypatch.setattr(tap, "bring_up", lambda *words: self.told.append(words))

    def all_of(self, graph: Graph) -> list[Any]:
        for node in graph.nodes:
            for claim in node.claim.backends:
                if claim.kind == "char":
                    Backends(MagicMock(), MagicMock(), MagicMock(), None)._character(claim)
                elif claim.kind in (
                    "block",
                    "scratch",
                    "pmem",
                    "tap",
                    "passt",
                    "virtiofs",
                    "folder",
                    "hybrid-vsock",
                ):
                    self._other(claim, graph)
        return self.told

    def _other(self, claim: BackendClaim, graph: Graph) -> None:
        module = import_module(f"runner.backends.{claim.kind.replace('-', '_')}")
        try:
            opened = module.open_host(claim, graph)
        except VmrunError as error:
            self.told.append(str(error))
            return
        self.told += [(name, *self._file(fd)) for name, fd in opened.fds.items()]
        opened.close()

    def _file(self, fd: int) -> tuple[str, int, int]:
        path = re.sub(r"#[0-9]+", "#", os.readlink(f"/proc/self/fd/{fd}"))  # a nameless file's inode
        return re.sub(r"[0-9]+]", "]", path), fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd).st_size

    def _character(self, name: str) -> Any:
        def make(*words: Any) -> MagicMock:
            self.told.append((name, [word for word in words if isinstance(word, str)]))
            return MagicMock()

        return make

    def _start(self, owner: str, words: list[str], keep: Any, **_: Any) -> Any:
        self.told.append([re.sub(r"fd/[0-9]+", "fd", word) for word in words if not word.isdigit()])
        raise HostError("no program is started here")

    def _serve(self, name: str, words: Any, keep: Any, taken: str, *, prepare: Any = None) -> Opened:
        self.told.append([re.sub(r"fd/[0-9]+", "fd", word) for word in words(99)])
        if prepare is not None:
            prepare()
        return Opened()


def memory_made(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How the engine makes the guest's memory."""
    ram = MagicMock(regions=())
    monkeypatch.setattr(loading, "Ram", ram)
    loading._memory(graph.memory)
    return [str(call) for call in ram.mock_calls]


def on_kvm(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the VM process makes of a plan."""
    cpus = [guest_cpuid(OFFER, graph.cpus, vcpu, tsc_deadline=True) for vcpu in graph.vcpus]
    devices = [built(node) for node in graph.nodes]
    return acpi.tables(graph).data, cpus, devices, memory_made(graph, monkeypatch), graph.boot.cmdline


def seen(one: Definition, engine: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    graph = plan(one, facts(), engine=(engine,))
    beyond = words(graph) if engine == "qemu" else on_kvm(graph, monkeypatch)
    with monkeypatch.context() as patched:
        opened = Opening(patched).all_of(graph)
    return decisions(graph), decisions(plan(one, facts())), opened, beyond


def takes(engine: str, one: Definition) -> bool:
    return not lacks(engine, one, modules_of(one))


def test_each_key_of_the_schema_has_a_change_to_be_tried() -> None:
    """A new key cannot be forgotten here, nor can one stay that is gone."""
    assert sorted(CHANGES) == sorted(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_an_effect(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each engine that takes the machine, one changed value changes what the engine does."""
    before, after = (definition(text, tmp_path) for text in CHANGES[key])
    engines = [engine for engine in NEEDS if takes(engine, after)]
    assert engines, "no engine takes it"
    idle = []
    for engine in engines:
        found = seen(after, engine, monkeypatch)
        assert found == seen(after, engine, monkeypatch), "what is looked at is not the same twice"
        if takes(engine, before) and found == seen(before, engine, monkeypatch):
            idle.append(engine)
    assert tuple(idle) == COVERED.get(key, ((),))[0]


@pytest.mark.parametrize("key", COVERED)
def test_what_is_covered_elsewhere_is(key: str) -> None:
    """The test that is named exists."""
    for test in COVERED[key][2].split():
        path, _, name = test.partition("::")
        tree = ast.parse((CHECKOUT / path).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
