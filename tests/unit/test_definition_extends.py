"""``extends`` and ``params``: what pieces and parameters become, and where their faults are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.definition.load import inspect, load
from runner.definition.model import FilePath, KernelFile
from runner.errors import DefinitionError, UsageError

BASE = 'kernel = "vmlinuz"\ncmdline = "console=ttyS0 quiet"\nengine = ["kvm", "qemu"]\n'


def write(folder: Path, **texts: str) -> str:
    """The texts as files; the path of the last one."""
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(path)


def told(path: str, *settings: str) -> list[str]:
    """Each finding as FILE:LINE:COLUMN and its code, the file without its folder."""
    found = inspect(path, settings).findings
    return [f"{Path(one.file).name}:{one.line}:{one.column} {one.code}" for one in found]


def test_a_piece_holds_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    """Tables are joined key by key; values and arrays are replaced as a whole."""
    piece = BASE + '[disks.a]\npath = "a"\nformat = "raw"\n[net.lan]\nmtu = 1400\n'
    path = write(
        tmp_path,
        base=piece,
        vm='extends = "base.toml"\nengine = "qemu"\n[disks.a]\nreadonly = true\n'
        '[disks.b]\npath = "b"\nformat = "raw"\n',
    )
    definition = load(path)
    assert definition.cmdline == "console=ttyS0 quiet"
    assert definition.engine == ("qemu",)
    options = {entry.name: entry.options for entry in definition.devices}
    assert set(options) == {"a", "lan", "b"}
    assert options["a"]["readonly"] is True
    assert options["a"]["format"] == "raw"


def test_a_later_piece_goes_before_an_earlier_one(tmp_path: Path) -> None:
    """In the order of the list; one that is reached twice counts once, at its first place."""
    path = write(
        tmp_path, root=BASE + "cpus = 1\n", one='extends = "root.toml"\ncpus = 2\n',
        two='extends = "root.toml"\n', vm='extends = ["one.toml", "two.toml"]\n',
    )  # fmt: skip
    assert load(path).cpus.total == 2


def test_paths_are_relative_to_the_file_that_says_them(tmp_path: Path) -> None:
    """A piece's path to the piece; a parameter's to the file that gives it; --set's to the file itself."""
    piece = BASE + 'initramfs = "{{initrd}}"\n[params]\ninitrd = "here"\n'
    path = write(tmp_path, common__base=piece, vm='extends = "common/base.toml"\n')
    definition = load(path)
    assert definition.kernel == KernelFile(FilePath("vmlinuz", str(tmp_path / "common" / "vmlinuz")))
    assert str(tmp_path / "common" / "here") in str(definition.initramfs)
    other = write(tmp_path, vm='extends = "common/base.toml"\nparams.initrd = "mine"\n')
    assert str(tmp_path / "mine") in str(load(other).initramfs)
    assert str(tmp_path / "set") in str(load(path, ("params.initrd=set",)).initramfs)
    assert str(tmp_path / "k") in str(load(path, ("kernel=k",)).kernel)
    disk = '[disks.a]\npath = "a"\nformat = "raw"\n'
    path = write(tmp_path, common__base=BASE + disk, vm='extends = "common/base.toml"\n')
    (entry,) = load(path, ('disks.a={path="b",format="raw"}',)).devices
    assert str(tmp_path / "b") in str(entry.options)


def test_the_digest_covers_every_piece(tmp_path: Path) -> None:
    """A change in a piece makes another definition."""
    path = write(tmp_path, base=BASE, vm='extends = "base.toml"\n')
    before = load(path)
    assert before.pieces == ((str(tmp_path / "base.toml"), BASE),)
    write(tmp_path, base=BASE + "cpus = 2\n")
    assert load(path).digest != before.digest


def test_faults_are_told_in_the_file_that_says_them(tmp_path: Path) -> None:
    """Those of the file itself first; syntax errors of pieces too, and what is missing at the top."""
    path = write(
        tmp_path,
        base='kernl = 1\ncpus = "x"\n[net.a]\nmtu = 1\n',
        vm='extends = "base.toml"\nserial = "off"\nmemory = 3\n[net.a]\nmut = 1\n',
    )
    assert told(path) == [
        "vm.toml:3:10 type", "vm.toml:5:1 unknown-key", "base.toml:1:1 unknown-key", "base.toml:2:8 type",
        "base.toml:4:7 range",
    ]  # fmt: skip
    path = write(tmp_path, base="cpus = four\n", vm='extends = "base.toml"\nserial = "off"\nname = 4\n')
    assert told(path) == ["vm.toml:3:8 type", "base.toml:1:8 syntax"]


def test_a_table_that_lacks_a_key_is_told_where_it_stands_last(tmp_path: Path) -> None:
    """A disk of a piece without format, to which the file adds: the file's own header."""
    piece = BASE + '[disks.a]\npath = "a"\n'
    path = write(tmp_path, base=piece, vm='extends = "base.toml"\n[disks.a]\nreadonly = true\n')
    assert told(path) == ["vm.toml:2:8 missing-key"]


def test_circles_are_refused(tmp_path: Path) -> None:
    """A file that comes back to itself, over another or at once, is told at the words that do it."""
    path = write(tmp_path, b='extends = "a.toml"\n', a=BASE + 'extends = ["b.toml"]\n')
    assert told(path) == ["b.toml:1:11 circle"]
    assert told(write(tmp_path, c=BASE + 'extends = "c.toml"\n')) == ["c.toml:4:11 circle"]


def test_too_many_pieces_are_refused(tmp_path: Path) -> None:
    """A chain without end stops at 32 files."""
    texts = {f"p{number}": f'extends = "p{number + 1}.toml"\n' for number in range(40)}
    assert any("length" in line for line in told(write(tmp_path, **texts, vm='extends = "p0.toml"\n')))


def test_pieces_that_cannot_be_read_are_told_at_their_words(tmp_path: Path) -> None:
    """A missing piece, a folder, and what is no path: each at its entry, and the rest is checked."""
    path = write(tmp_path, vm=BASE + 'extends = ["no.toml", ".", 5]\ncpus = 0\n')
    assert told(path) == [
        "vm.toml:4:12 missing-file", "vm.toml:4:23 missing-file", "vm.toml:4:28 type", "vm.toml:5:8 range",
    ]  # fmt: skip
    write(tmp_path, network="")
    (first, *_) = inspect(write(tmp_path, vm=BASE + 'extends = "netwrk.toml"\n')).findings
    assert "network.toml" in first.hint


def test_pieces_are_named_in_the_file_alone(tmp_path: Path) -> None:
    """--set extends would come too late, and is refused."""
    with pytest.raises(UsageError, match="extends"):
        inspect(write(tmp_path, vm=BASE), ("extends=x.toml",))


def test_a_reference_alone_keeps_the_type(tmp_path: Path) -> None:
    """Inside a longer string it is text; without [params] two braces mean nothing."""
    path = write(
        tmp_path,
        vm='kernel = "k-{{version}}"\ncmdline = "console=ttyS0 a={{ debug }}"\ncpus = "{{cpus}}"\n'
        '[params]\nversion = 6.1\ncpus = 4\ndebug = true\n',
    )  # fmt: skip
    definition = load(path)
    assert definition.kernel == KernelFile(FilePath("k-6.1", str(tmp_path / "k-6.1")))
    assert definition.cmdline == "console=ttyS0 a=true"
    assert definition.cpus.total == 4
    assert load(path, ("params.cpus=2", "params.debug=false")).cpus.total == 2
    assert load(write(tmp_path, vm=BASE.replace("quiet", "{{x}}"))).cmdline == "console=ttyS0 {{x}}"


def test_what_was_put_in_is_not_looked_through_again(tmp_path: Path) -> None:
    """So a parameter can hold two braces, and none can go round in a circle."""
    path = write(tmp_path, vm=BASE.replace("quiet", "{{a}}") + '[params]\na = "{{b}}"\nb = "x"\n')
    assert load(path).cmdline == "console=ttyS0 {{b}}"


def test_a_fault_in_a_parameter_is_told_where_its_value_stands(tmp_path: Path) -> None:
    """In the piece that gives it, in the file that gives it anew, or in the words of --set."""
    piece = BASE + 'cpus = "{{n}}"\n[params]\nn = 0\n'
    path = write(tmp_path, base=piece, vm='extends = "base.toml"\n')
    assert told(path) == ["base.toml:6:5 range"]
    assert told(path, "params.n=no") == ["--set:1:10 type"]
    assert told(write(tmp_path, vm='extends = "base.toml"\n[params]\nn = 999\n')) == ["vm.toml:3:5 range"]


def test_a_parameter_without_a_value_has_to_be_given_one(tmp_path: Path) -> None:
    """Its meaning is told with the words that set it."""
    path = write(tmp_path, vm=BASE + 'memory = "{{m}}"\n[params.m]\ndescription = "how much"\n')
    with pytest.raises(DefinitionError) as error:
        load(path)
    (finding,) = error.value.findings
    assert "how much" in str(finding)
    assert "--set params.m=" in str(finding)
    assert load(path, ("params.m=1G",)).memory.size == 1 << 30
