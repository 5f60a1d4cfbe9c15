"""The built initramfs: what is in it, reproducibly, and how its guest begins and ends."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest
import tiny_kernels
from boot_samples import elf

from runner.artifacts import guest_exit, guest_init, initramfs, prepare
from runner.artifacts.cache import Cache
from runner.artifacts.cpio import Tree
from runner.artifacts.elf import read_program
from runner.artifacts.kernel import KernelArtifact
from runner.artifacts.modules import Module
from runner.artifacts.vmlinux import extract_vmlinux
from runner.definition.model import FilePath, InitramfsBuild
from runner.errors import HostError, HostIoError


@pytest.fixture
def busybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FilePath:
    """A static ELF header for the check, and the list that a real one would print."""
    path = tmp_path / "busybox"
    path.write_bytes(elf())
    applets = ("bin/cttyhack", "bin/mount", "bin/sh", "sbin/modprobe", "usr/bin/setsid")
    monkeypatch.setattr(initramfs.busybox, "applets", lambda _path: applets)
    return FilePath("busybox", str(path))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "cache"))


@pytest.fixture
def kernel(tmp_path: Path) -> KernelArtifact:
    modules = tmp_path / "kernel/lib/modules/6.1"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("kernel/a-b.ko: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko:\n")
    for name in ("a-b", "c", "d"):
        (modules / "kernel").mkdir(exist_ok=True)
        (modules / f"kernel/{name}.ko").write_bytes(b"\x7fELF " + name.encode())
    return KernelArtifact(str(tmp_path / "k"), str(modules), "6.1", "0" * 64, "k", (str(tmp_path / "k"),))


def _unpack(path: str, into: Path) -> Path:
    into.mkdir()
    with open(path, "rb") as file:
        # Without root the two device nodes cannot be made, which it says.
        subprocess.run(["busybox", "cpio", "-i"], stdin=file, cwd=into, check=False, stderr=-3)
    return into


def test_modules_are_where_modprobe_looks(
    tmp_path: Path, busybox: FilePath, kernel: KernelArtifact, cache: Cache
) -> None:
    built = initramfs.build(InitramfsBuild(("a_b",), run="true", busybox=busybox), kernel, cache, "t")
    root = _unpack(built.path, tmp_path / "root")
    assert built.modules == ("c", "a_b")
    folder = root / "lib/modules/6.1"
    assert (folder / "modules.dep").read_text() == "kernel/c.ko:\nkernel/a-b.ko: kernel/c.ko\n"
    assert (folder / "kernel/a-b.ko").read_bytes() == b"\x7fELF a-b"
    assert not (folder / "kernel/d.ko").exists()
    assert "modprobe -a c a_b\n" in (root / "init").read_text()


def test_modules_of_a_kernel_that_brings_none_are_an_error(
    busybox: FilePath, kernel: KernelArtifact, cache: Cache
) -> None:
    bare = kernel._replace(modules_dir=None)
    with pytest.raises(HostError, match="there are none") as caught:
        initramfs.build(InitramfsBuild(("a_b",), busybox=busybox), bare, cache, "t")
    assert "lib/modules/6.1" in caught.value.hint
    assert initramfs.build(InitramfsBuild(busybox=busybox), bare, cache, "t").modules == ()


def test_files_keep_their_mode_and_directories_come_whole(
    tmp_path: Path, busybox: FilePath, kernel: KernelArtifact, cache: Cache
) -> None:
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/sub/x.sh").write_text("#!/bin/sh\n")
    (tmp_path / "dir/sub/x.sh").chmod(0o755)
    (tmp_path / "dir/link").symlink_to("sub/x.sh")
    pairs = {"/etc/key": "key", "/opt": "dir"}
    files = tuple((guest, FilePath(host, str(tmp_path / host))) for guest, host in pairs.items())
    built = initramfs.build(InitramfsBuild(files=files, busybox=busybox), kernel, cache, "t")
    root = _unpack(built.path, tmp_path / "root")
    assert stat.S_IMODE((root / "etc/key").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "opt/sub/x.sh").stat().st_mode) == 0o755
    assert os.readlink(root / "opt/link") == "sub/x.sh"
    assert {str(tmp_path / "key"), str(tmp_path / "dir/sub/x.sh"), busybox.resolved} <= set(built.inputs)


def test_a_missing_file_is_told_by_both_its_names(
    tmp_path: Path, busybox: FilePath, kernel: KernelArtifact, cache: Cache
) -> None:
    files = (("/etc/x", FilePath("x", str(tmp_path / "none"))),)
    with pytest.raises(HostIoError, match=r"none, wanted in the initramfs below /etc/x: No such file"):
        initramfs.build(InitramfsBuild(files=files, busybox=busybox), kernel, cache, "t")


def test_a_device_node_is_no_file(busybox: FilePath, kernel: KernelArtifact, cache: Cache) -> None:
    files = (("/x", FilePath("/dev/zero", "/dev/zero")),)
    with pytest.raises(HostError, match="neither a file nor a directory"):
        initramfs.build(InitramfsBuild(files=files, busybox=busybox), kernel, cache, "t")


def test_a_dynamic_program_brings_its_libraries_and_works(
    tmp_path: Path, busybox: FilePath, kernel: KernelArtifact, cache: Cache
) -> None:
    """The interpreter in the archive, told to look in the archive only, finds all it needs."""
    program = os.path.realpath("/usr/bin/env")
    files = (("/bin/env", FilePath("env", program)),)
    built = initramfs.build(InitramfsBuild(files=files, busybox=busybox), kernel, cache, "t")
    root = _unpack(built.path, tmp_path / "root")
    found = read_program(program)
    assert found is not None
    assert found.interpreter is not None
    inside = root / found.interpreter.lstrip("/")
    done = subprocess.run([inside, "--list", root / "bin/env"], capture_output=True, text=True, check=True)
    assert "not found" not in done.stdout
    libc = next(path for path in built.inputs if "libc.so" in path)
    assert (root / libc.lstrip("/")).read_bytes() == Path(libc).read_bytes()


def test_same_inputs_same_file(busybox: FilePath, kernel: KernelArtifact, tmp_path: Path) -> None:
    """Neither times nor the cache's place show in the bytes."""
    spec = InitramfsBuild(("a_b", "d"), run="echo x", busybox=busybox)
    first = initramfs.build(spec, kernel, Cache(str(tmp_path / "1")), "t")
    os.utime(busybox.resolved, (1, 1))
    second = initramfs.build(spec, kernel, Cache(str(tmp_path / "2")), "u")
    assert os.path.basename(first.path) == os.path.basename(second.path)
    other = initramfs.build(spec._replace(run="echo y"), kernel, Cache(str(tmp_path / "1")), "t")
    assert other.path != first.path


def test_other_bytes_need_another_revision(busybox: FilePath, kernel: KernelArtifact, cache: Cache) -> None:
    """Records of earlier runs hold as long as prepare.REVISION does: whoever changes what is built
    or extracted raises it, and puts the new hashes here."""
    spec = InitramfsBuild(("a_b",), run="echo x", busybox=busybox)
    built = Path(initramfs.build(spec, kernel, cache, "t").path).read_bytes()
    program = tiny_kernels.elf([(1, 0x100000, b"code", 0x1000)])
    payload = gzip.compress(program, mtime=0) + len(program).to_bytes(4, "little")
    extracted = extract_vmlinux(tiny_kernels.bzimage(payload))
    hashes = tuple(hashlib.sha256(data).hexdigest()[:16] for data in (built, extracted))
    assert (prepare.REVISION, *hashes) == (3, "c7d19330a4a4b3f1", "d1049f1cfbd6e824")


def test_init_is_a_script_the_shell_understands() -> None:
    modules = (Module("a", "a.ko"), Module("o", "o.ko", True), Module("p", "p.ko", True), Module("b", "b.ko"))
    for run, root in ((None, "/dev/vda"), (None, None), ("true", None)):
        text = guest_init.script(modules, ("/opt/it's here",), run, root)
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert "modprobe -a a\nmodprobe -a o p 2>/dev/null\nmodprobe -a b\n" in text
    echoed = subprocess.run(
        ["sh", "-c", text[text.index("export LD_") :].split("\n")[0] + '; printf %s "$LD_LIBRARY_PATH"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert echoed.stdout == "/opt/it's here"


def test_a_guest_without_a_command_has_a_shell_with_job_control() -> None:
    text = guest_init.script((), (), None)
    assert "setsid cttyhack sh\n" in text
    assert text.endswith(f"exec {guest_init.FOLDER}/exit\n")


def _after_the_console(text: str) -> str:
    return text.split("fi 2>/dev/null\n", 1)[1]


@pytest.mark.parametrize(
    ("cmdline", "appears", "waits"),
    [("quiet console=hvc0", 3, 3), ("console=hvc0", 0, 0), ("console=hvc0", 99, 50), ("console=ttyS0", 1, 0)],
)
def test_a_console_that_comes_after_its_driver_is_waited_for(
    tmp_path: Path, cmdline: str, appears: int, waits: int
) -> None:
    """Run by busybox's shell: where the kernel was told of one, for five seconds, and nowhere else."""
    console, slept = tmp_path / "dev" / "console", tmp_path / "slept"
    (tmp_path / "cmdline").write_text(cmdline + "\n")
    slept.write_text("")
    text = guest_init.script((), (), "true")
    text = text[text.index("tries=") : text.index("(. ")].replace("/dev/console", str(console))
    text = text.replace("/proc/cmdline", str(tmp_path / "cmdline"))
    appear = f"[ $(wc -l < {slept}) -lt {appears} ] || mkdir {console.parent}"
    programs = f"sleep() {{ echo $1 >> {slept}; {appear}; }}\n{appear}\n"
    subprocess.run(["busybox", "sh", "-c", f"{programs}{text}echo hello\n"], check=True)
    assert slept.read_text() == "0.1\n" * waits
    assert (console.read_text() if console.exists() else "") == ("hello\n" if appears == waits else "")


def test_init_hands_over_the_status_of_the_command(tmp_path: Path) -> None:
    """Run by a real shell: a failing command, a syntax error, and exit, all reach the last line."""
    for run, status in (("exit 7", 7), ("false", 1), ("true", 0), ("foo (", 2)):
        (tmp_path / "run").write_text(run + "\n")
        (tmp_path / "exit").write_text("#!/bin/sh\necho status $1\n")
        (tmp_path / "exit").chmod(0o755)
        text = _after_the_console(guest_init.script((), (), run))
        script = text.replace(guest_init.FOLDER, str(tmp_path))
        done = subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == f"status {status}\n"


@pytest.mark.parametrize(
    ("cmdline", "mounted", "started"),
    [
        ("quiet", "-o ro /dev/vda", "/sbin/init"),
        ("ro quiet rw", "-o rw /dev/vda", "/sbin/init"),
        ("rw rootflags=noatime,commit=9 rootfstype=ext4 init=/x",
         "-t ext4 -o rw,noatime,commit=9 /dev/vda", "/x"),
    ],
)  # fmt: skip
def test_root_is_mounted_as_the_command_line_says(
    tmp_path: Path, cmdline: str, mounted: str, started: str
) -> None:
    """Run by busybox's shell with every program replaced: what is mounted how, and what is started."""
    (tmp_path / "cmdline").write_text(cmdline + "\n")
    done = _init_with_root(tmp_path, 'mount() { echo "mount $*" >&3; }', started)
    assert done.stdout.splitlines() == [
        f"mount {mounted} {tmp_path}/newroot",
        *(f"mount --move /{each} {tmp_path}/newroot/{each}" for each in ("dev", "proc", "sys")),
        f"switch_root {tmp_path}/newroot {started}",
    ]


def test_a_root_that_is_none_ends_the_guest_with_a_reason(tmp_path: Path) -> None:
    """No such device, and a file system without an init."""
    (tmp_path / "cmdline").write_text("quiet\n")
    absent = _init_with_root(tmp_path, "mount() { echo No such device; return 1; }; sleep() { :; }", None)
    assert absent.stdout == "vmrun: no root file system on /dev/vda: No such device\nexit 1\n"
    empty = _init_with_root(tmp_path, "mount() { :; }", None)
    assert empty.stdout == "vmrun: the file system on /dev/vda has no /sbin/init\nexit 1\n"


def _init_with_root(folder: Path, programs: str, init: str | None) -> subprocess.CompletedProcess[str]:
    """What follows the console in /init; ``programs`` are shell functions in place of the real ones."""
    text = _after_the_console(guest_init.script((), (), None, "/dev/vda"))
    for place in ("/newroot", "/proc/cmdline", guest_init.FOLDER):
        text = text.replace(place, f"{folder}/{os.path.basename(place)}")
    for name in ("exit", "switch_root"):
        for program in (f"{folder}/.vmrun/{name}", name):
            text = text.replace(f"exec {program}", f"told {name}")
    if init is not None:
        place = folder / "newroot" / init.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to("/lib/systemd/systemd")  # as Debian's: it leads nowhere before the switch
    text = text.replace("mkdir ", "mkdir -p ")
    script = f'exec 3>&1; told() {{ echo "$*"; exit; }}\n{programs}\n{text}'
    return subprocess.run(["busybox", "sh", "-c", script], capture_output=True, text=True, check=True)


def _exit_program(folder: Path) -> str:
    path = folder / "exit"
    path.write_bytes(guest_exit.program())
    path.chmod(0o755)
    return str(path)


def test_the_exit_program_is_a_small_static_program(tmp_path: Path) -> None:
    found = read_program(_exit_program(tmp_path))
    assert found is not None
    assert found.interpreter is None
    assert len(guest_exit.program()) < 512


@pytest.mark.parametrize("status", [0, 7, 255])
def test_a_kernel_that_refuses_the_port_is_no_success(tmp_path: Path, status: int) -> None:
    """Without privileges ioperm(2) fails, as under lockdown: a message, and process 1 ends (a panic)."""
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", _exit_program(tmp_path), str(status)]
    if os.geteuid() != 0:
        del command[:3]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert "exit port 0xf4" in done.stderr


def test_a_tree_is_complete_without_a_host(busybox: FilePath, kernel: KernelArtifact, cache: Cache) -> None:
    """/dev/console is in the archive: the kernel opens it for init before devtmpfs is there."""
    tree = Tree()
    initramfs._add_base(tree, busybox.resolved, ("bin/sh",))
    entries = dict(tree)
    assert entries["dev/console"].device == (5, 1)
    assert stat.S_ISCHR(entries["dev/console"].mode)
    assert entries["bin/sh"].data == b"/bin/busybox"
    assert {"proc", "sys", "tmp"} <= entries.keys()
