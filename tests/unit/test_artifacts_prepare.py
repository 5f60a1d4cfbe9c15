"""fetch(): everything the first time, next to nothing the second, and never something stale."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from boot_samples import Apt, bzimage, deb, elf

from runner.artifacts import busybox, prepare, vmlinux
from runner.artifacts.cache import Cache
from runner.definition.model import FilePath, InitramfsBuild, InitramfsFile, KernelDeb, KernelFile
from runner.errors import DefinitionError, HostIoError
from runner.graph.model import Boot


class Bench:
    """A kernel, a busybox and a file, all older than what fetch() takes for settled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = Cache(str(folder / "cache"))
        self.write("vmlinuz", bzimage())
        self.write("busybox", elf())
        self.write("motd", b"hello")
        self.boot = Boot(
            KernelFile(self.path("vmlinuz")),
            InitramfsBuild((), (("/etc/motd", self.path("motd")),), "true", self.path("busybox")),
            "",
        )

    def path(self, name: str) -> FilePath:
        return FilePath(name, str(self.folder / name))

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(vmlinux, "extract_vmlinux", lambda image: elf() + image[:16])
    monkeypatch.setattr(busybox, "applets", lambda _path: ("bin/sh",))
    made = Bench(tmp_path)
    time.sleep(2 * prepare._SETTLED_NS / 1e9)
    return made


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that something was really made."""
    done: list[str] = []
    make = prepare._prepare

    def noted(*arguments: object) -> object:
        done.append("made")
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "_prepare", noted)
    return done


def test_the_second_time_nothing_is_made(bench: Bench, work: list[str]) -> None:
    first = prepare.fetch(bench.boot, bench.cache)
    assert prepare.fetch(bench.boot, Cache(bench.cache.root)) == first
    assert work == ["made"]
    assert first.kernel_given == bench.path("vmlinuz").resolved
    assert Path(first.kernel).read_bytes().startswith(b"\x7fELF")
    assert any("vmlinuz" in note for note in first.notes)


@pytest.mark.parametrize("name", ["vmlinuz", "busybox", "motd"])
def test_a_changed_input_is_noticed(bench: Bench, work: list[str], name: str) -> None:
    """Also when size and modification time are as before: ctime is not the user's to set."""
    before = prepare.fetch(bench.boot, bench.cache)
    path = bench.path(name).resolved
    found = os.stat(path)
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = prepare.fetch(bench.boot, bench.cache)
    assert len(work) == 2
    assert after[:3] != before[:3] or name == "vmlinuz"


def test_modules_indexed_anew_are_noticed(bench: Bench, work: list[str]) -> None:
    """depmod after an update of the host's own modules: the order may be another."""
    tree = bench.folder / "lib/modules/6.1.0-99-cloud-amd64"
    tree.mkdir(parents=True)
    (tree / "modules.dep").write_text("a.ko:\nb.ko:\n")
    for name in ("a.ko", "b.ko"):
        (tree / name).write_bytes(b"\x7fELF")
    time.sleep(2 * prepare._SETTLED_NS / 1e9)
    assert isinstance(bench.boot.initramfs, InitramfsBuild)
    boot = bench.boot._replace(initramfs=bench.boot.initramfs._replace(modules=("a",)))
    first = prepare.fetch(boot, bench.cache)
    (tree / "modules.dep").write_text("a.ko: b.ko\nb.ko:\n")
    assert prepare.fetch(boot, bench.cache).initramfs != first.initramfs


@pytest.mark.parametrize("field", ["kernel", "initramfs"])
def test_a_result_that_is_gone_or_cut_is_made_again(bench: Bench, work: list[str], field: str) -> None:
    path = Path(getattr(prepare.fetch(bench.boot, bench.cache), field))
    good = path.read_bytes()
    path.unlink()
    assert Path(getattr(prepare.fetch(bench.boot, bench.cache), field)).read_bytes() == good
    assert len(work) == 2


def test_other_words_are_other_files(bench: Bench, work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if their short names collide: the record repeats the words."""
    monkeypatch.setattr(prepare, "crc32", lambda _data: 7)
    assert isinstance(bench.boot.initramfs, InitramfsBuild)
    other = bench.boot._replace(initramfs=bench.boot.initramfs._replace(run="false"))
    first = prepare.fetch(bench.boot, bench.cache)
    assert prepare.fetch(other, bench.cache).initramfs != first.initramfs
    assert prepare.fetch(bench.boot, bench.cache) == first
    assert len(work) == 3


def test_another_revision_believes_no_record(
    bench: Bench, work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare.fetch(bench.boot, bench.cache)
    monkeypatch.setattr(prepare, "REVISION", prepare.REVISION + 1)
    prepare.fetch(bench.boot, bench.cache)
    assert len(work) == 2


def test_a_file_changed_a_moment_ago_is_not_remembered(bench: Bench, work: list[str]) -> None:
    """Within one tick of the kernel's clock it could change again and look the same."""
    bench.write("motd", b"fresh")
    prepare.fetch(bench.boot, bench.cache)
    prepare.fetch(bench.boot, bench.cache)
    assert len(work) == 2


def test_a_fallback_is_not_remembered(bench: Bench, work: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing decompressor may be installed by the next run."""
    from runner.errors import HostError

    def missing(_image: bytes) -> bytes:
        raise HostError("no zstd", hint="install it")

    with monkeypatch.context() as patch:
        patch.setattr(vmlinux, "extract_vmlinux", missing)
        files = prepare.fetch(bench.boot, bench.cache)
    assert files.kernel == files.kernel_given
    assert any("no zstd" in note for note in files.notes)
    assert prepare.fetch(bench.boot, bench.cache).kernel != files.kernel_given


def test_a_damaged_record_is_not_believed(bench: Bench, work: list[str]) -> None:
    """Above all one that lost its last stamps, and would go on although its inputs change."""
    first = prepare.fetch(bench.boot, bench.cache)
    (record,) = (bench.folder / "cache/notes").glob("prepared-*")
    good = record.read_bytes()
    pieces = good.split(b"\0")
    cut = [b"\0".join(pieces[:end]) for end in range(len(pieces))]
    damaged = [b"", b"\xff\0", pieces[0] + b"\0\0", good.replace(b"busybox", b"busibox"), *cut]
    for text in damaged:
        record.write_bytes(text)
        assert prepare.fetch(bench.boot, bench.cache) == first
    assert len(work) == 1 + len(damaged)


def test_a_refreshed_name_is_noticed_by_other_definitions(
    bench: Bench, work: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files name one package; refreshing it for one must not leave the other behind."""
    apt = Apt(tmp_path / "apt")
    monkeypatch.setenv("PATH", f"{apt.programs}:{os.environ['PATH']}")
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        image = {"boot/vmlinuz-6.1.0-9": bzimage("6.1.0-9", 0x1000 + number)}
        apt.offer("linux-image-x", str(number), deb=deb(folder, "linux-image-x", str(number), image))
        one = bench.boot._replace(kernel=KernelDeb("linux-image-x"))
        other = one._replace(initramfs=None)
        files = prepare.fetch(one, bench.cache, refresh=True)
        assert prepare.fetch(other, bench.cache).kernel == files.kernel


def test_a_given_initramfs_is_only_checked(bench: Bench) -> None:
    boot = bench.boot._replace(initramfs=InitramfsFile(bench.path("motd")))
    assert prepare.fetch(boot, bench.cache).initramfs == bench.path("motd").resolved
    gone = bench.boot._replace(initramfs=InitramfsFile(bench.path("none")))
    with pytest.raises(HostIoError, match="none does not exist"):
        prepare.fetch(gone, bench.cache)


def test_a_given_initramfs_that_went_away_is_noticed(bench: Bench) -> None:
    boot = bench.boot._replace(initramfs=InitramfsFile(bench.path("motd")))
    prepare.fetch(boot, bench.cache)
    (bench.folder / "motd").unlink()
    with pytest.raises(HostIoError, match="motd does not exist"):
        prepare.fetch(boot, bench.cache)


def test_no_kernel_is_an_error(bench: Bench) -> None:
    with pytest.raises(DefinitionError, match="names no kernel"):
        prepare.fetch(bench.boot._replace(kernel=None), bench.cache)


def test_what_was_prepared_is_found_in_a_read_only_cache(
    bench: Bench, work: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a machine that sees its host's root read-only; what is new goes to the overlay, and is said."""
    first = prepare.fetch(bench.boot, bench.cache)
    access = os.access

    def read_only(path: str, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and path.startswith(bench.cache.root))

    monkeypatch.setattr(os, "access", read_only)
    overlay = str(tmp_path / "overlay")
    assert prepare.fetch(bench.boot, Cache(bench.cache.root, overlay)) == first
    assert not os.listdir(overlay)
    bench.write("motd", b"other")
    time.sleep(2 * prepare._SETTLED_NS / 1e9)
    second = prepare.fetch(bench.boot, Cache(bench.cache.root, overlay))
    assert second.initramfs is not None
    assert second.initramfs.startswith(overlay)
    assert second.kernel == first.kernel
    assert any("read-only" in note for note in second.notes)
    assert prepare.fetch(bench.boot, Cache(bench.cache.root, overlay)) == second
    assert len(work) == 2


_COUNT = """
import sys
from runner.graph.model import Boot
from runner.definition.model import *
boot = eval(sys.argv[1])
before = set(sys.modules)
import runner.artifacts.prepare as prepare
from runner.artifacts.cache import Cache
calls = []
sys.addaudithook(lambda event, arguments: calls.append(event) if event == "open" else None)
prepare.fetch(boot, Cache(sys.argv[2]))
opened = len(calls)
print(opened, *sorted(set(sys.modules) - before))
"""


def test_the_second_time_costs_one_small_read_and_no_import(bench: Bench) -> None:
    """What `vmrun FILE` pays each time: C apart, only modules of ours that import nothing."""
    prepare.fetch(bench.boot, bench.cache)
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, repr(bench.boot), bench.cache.root],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    opened, *modules = done.stdout.split()
    ours = {name for name in modules if name.startswith("runner")}
    assert opened == "1"
    assert ours == {
        "runner.artifacts",
        "runner.artifacts.cache",
        "runner.artifacts.prepare",
        "runner.errors",
        "runner.folders",
        "runner.light",
    }
    assert set(modules) - ours <= {"binascii", "_heapq"}
