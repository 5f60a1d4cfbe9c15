"""Kernel modules: found by name or alias, in an order in which they load."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.artifacts.modules import Module, ModuleTree
from runner.errors import HostError


def _tree(folder: Path, dep: str, builtin: str = "", softdep: str = "", alias: str = "") -> ModuleTree:
    folder.mkdir(exist_ok=True)
    (folder / "modules.dep").write_text(dep)
    (folder / "modules.builtin").write_text(builtin)
    (folder / "modules.softdep").write_text(softdep)
    (folder / "modules.alias").write_text(alias)
    return ModuleTree(str(folder))


def _names(modules: tuple[Module, ...]) -> list[str]:
    return [module.name for module in modules]


BLOCK = """\
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/mmc/host/sdhci-pci.ko.xz: kernel/drivers/mmc/host/sdhci.ko.xz
kernel/drivers/mmc/host/sdhci.ko.xz:
"""


def test_what_is_needed_loads_first(tmp_path: Path) -> None:
    """modules.dep(5) lists needs so that the last one loads first."""
    order = _tree(tmp_path, BLOCK).load_order(("virtio_blk",))
    assert _names(order) == ["virtio_ring", "virtio", "virtio_blk"]


def test_each_loads_once(tmp_path: Path) -> None:
    order = _names(_tree(tmp_path, BLOCK).load_order(("virtio", "virtio_blk", "virtio")))
    assert order == ["virtio_ring", "virtio", "virtio_blk"]


def test_dash_and_underscore_are_the_same(tmp_path: Path) -> None:
    """modprobe(8): in file names, in the definition, in modules.builtin."""
    tree = _tree(tmp_path, BLOCK, builtin="kernel/drivers/tty/serial-core.ko\n")
    for name in ("sdhci_pci", "sdhci-pci"):
        assert _names(tree.load_order((name,))) == ["sdhci", "sdhci_pci"]
    assert tree.load_order(("serial_core",)) == ()


def test_a_missing_module_is_an_error_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no module 'virtio_blok'") as caught:
        _tree(tmp_path, BLOCK).load_order(("virtio_blok",))
    assert "virtio_blk" in caught.value.hint


def test_soft_dependencies_are_optional_and_may_be_aliases(tmp_path: Path) -> None:
    """ext4 wants crc32c by name only: whatever provides it has to be there, but may not fit the CPU."""
    tree = _tree(
        tmp_path,
        "ext4.ko: jbd2.ko\njbd2.ko:\ncrc32c_generic.ko:\ncrc32c-intel.ko:\nlate.ko:\n",
        softdep="# from the kernel\nsoftdep ext4 pre: crc32c nosuch post: late\n",
        alias="alias crc32c crc32c_generic\nalias crc32c crc32c_intel\nalias pci:v00001AF4d* jbd2\n",
    )
    order = tree.load_order(("ext4",))
    assert _names(order) == ["crc32c_generic", "crc32c_intel", "jbd2", "ext4", "late"]
    assert [module.name for module in order if module.optional] == ["crc32c_generic", "crc32c_intel", "late"]


def test_a_module_both_soft_and_needed_is_not_optional(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "a.ko:\nb.ko: a.ko\n", softdep="softdep b pre: a\n")
    assert not any(module.optional for module in tree.load_order(("b",)))


def test_soft_dependencies_in_a_circle_end(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "a.ko:\nb.ko:\n", softdep="softdep a pre: b\nsoftdep b pre: a\n")
    assert sorted(_names(tree.load_order(("a",)))) == ["a", "b"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=30), st.integers(0, 29))
def test_no_module_comes_before_what_it_needs(
    tmp_path_factory: pytest.TempPathFactory, graph: list[list[int]], wanted: int
) -> None:
    """Any acyclic graph, written as depmod does: direct and indirect needs, dependants before needs."""
    needs = [sorted({need for need in row if need < n}, reverse=True) for n, row in enumerate(graph)]

    def closure(number: int) -> list[int]:
        found: list[int] = []
        for need in needs[number]:
            for one in (need, *closure(need)):
                if one in found:
                    found.remove(one)
                found.append(one)
        return found

    all_needs = [closure(number) for number in range(len(needs))]
    dep = "".join(f"m{n}.ko:{''.join(f' m{need}.ko' for need in row)}\n" for n, row in enumerate(all_needs))
    wanted %= len(needs)
    order = _names(_tree(tmp_path_factory.getbasetemp() / "graph", dep).load_order((f"m{wanted}",)))
    assert sorted(order) == sorted(f"m{n}" for n in (wanted, *all_needs[wanted]))
    for number in (wanted, *all_needs[wanted]):
        assert all(order.index(f"m{need}") < order.index(f"m{number}") for need in needs[number])


def test_without_an_index_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"modules\.dep") as caught:
        ModuleTree(str(tmp_path))
    assert "depmod" in caught.value.hint


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_compressed_module_is_unpacked(tmp_path: Path, suffix: str, pack: object) -> None:
    tree = _tree(tmp_path, f"x.ko{suffix}:\n")
    (tmp_path / f"x.ko{suffix}").write_bytes(pack(b"\x7fELF module"))  # type: ignore[operator]
    assert tree.read(tree.load_order(("x",))[0]) == b"\x7fELF module"


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "x.ko:\n")
    (tmp_path / "x.ko").write_bytes(b"oops")
    with pytest.raises(HostError, match="no kernel module"):
        tree.read(tree.load_order(("x",))[0])
