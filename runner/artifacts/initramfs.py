"""Building an initramfs: busybox, kernel modules, files of this host and a command to run.

The archive is not compressed, which boots faster, and depends on nothing but what is in it:
the same inputs give the same bytes.
"""

from __future__ import annotations

import os
import stat

from runner.artifacts import busybox, guest_exit, guest_init, libraries
from runner.artifacts.cache import Cache, Tell, silent
from runner.artifacts.cpio import Entry, Tree
from runner.artifacts.kernel import KernelArtifact
from runner.artifacts.modules import Module, ModuleTree, index
from runner.definition.model import FilePath, InitramfsBuild
from runner.errors import HostError, HostIoError
from runner.typed import NamedTuple

_DIRECTORY = stat.S_IFDIR | 0o755
_EXECUTABLE = stat.S_IFREG | 0o755


class Initramfs(NamedTuple):
    """A built archive and the host files that decided its bytes."""

    path: str
    inputs: tuple[str, ...]
    modules: tuple[str, ...]  # in load order


def build(
    spec: InitramfsBuild, kernel: KernelArtifact, cache: Cache, name: str, tell: Tell = silent
) -> Initramfs:
    """Build into the cache; ``name`` tells concurrent builds of different things apart."""
    inputs: list[str] = []
    program = busybox.find(spec.busybox, cache, tell)
    inputs.append(program)
    modules = _ModuleSet(spec.modules, kernel, cache)
    inputs.extend(modules.inputs())
    tree = Tree()
    _add_base(tree, program, busybox.applets(program))
    modules.add_to(tree)
    folders: list[str] = []
    for guest, host in spec.files:
        _add_host(tree, guest, host, inputs, folders)
    _add_init(tree, spec, modules.order, folders)
    path = cache.store("initramfs", name, tree.write, suffix=".cpio")
    return Initramfs(path, tuple(dict.fromkeys(inputs)), tuple(module.name for module in modules.order))


def _add_base(tree: Tree, program: str, applets: tuple[str, ...]) -> None:
    for folder in ("dev", "etc", "proc", "root", "run", "sys", "tmp"):
        tree.add(folder, Entry(stat.S_IFDIR | 0o1777 if folder == "tmp" else _DIRECTORY))
    # The kernel opens /dev/console for init before anything is mounted.
    tree.add("dev/console", Entry(stat.S_IFCHR | 0o600, device=(5, 1)))
    tree.add("dev/null", Entry(stat.S_IFCHR | 0o666, device=(1, 3)))
    tree.add("bin/busybox", Entry(_EXECUTABLE, source=program))
    for place in applets:
        tree.add(place, Entry(stat.S_IFLNK | 0o777, b"/bin/busybox"))


def _add_init(tree: Tree, spec: InitramfsBuild, modules: tuple[Module, ...], folders: list[str]) -> None:
    text = guest_init.script(modules, tuple(dict.fromkeys(folders)), spec.run, spec.root)
    tree.add("init", Entry(_EXECUTABLE, text.encode()))
    tree.add(f"{guest_init.FOLDER}/mounts", Entry(stat.S_IFREG | 0o644, guest_init.MOUNTS.encode()))
    tree.add(f"{guest_init.FOLDER}/exit", Entry(_EXECUTABLE, guest_exit.program()))
    if spec.run is not None:
        tree.add(f"{guest_init.FOLDER}/run", Entry(_EXECUTABLE, spec.run.encode() + b"\n"))


class _ModuleSet:
    """The modules of one initramfs and where they come from."""

    def __init__(self, names: tuple[str, ...], kernel: KernelArtifact, cache: Cache) -> None:
        self._kernel = kernel
        self._tree = ModuleTree(_indexed(kernel, cache)) if names else None
        self.order = self._tree.load_order(names) if self._tree else ()

    def inputs(self) -> list[str]:
        """Files outside the cache whose change would change the archive."""
        if self._tree is None or not self._kernel.inputs:
            return []  # out of the cache, which does not change
        return [os.path.join(self._tree.directory, module.path) for module in self.order]

    def add_to(self, tree: Tree) -> None:
        """The modules where modprobe looks for them, and a modules.dep of these alone."""
        if self._tree is None:
            return
        folder = f"lib/modules/{self._kernel.release}"
        lines = []
        for module in self.order:
            place = module.path.split(".ko", 1)[0] + ".ko"
            tree.add(f"{folder}/{place}", Entry(stat.S_IFREG | 0o644, self._tree.read(module)))
            lines.append(f"{place}:{''.join(' ' + need for need in self._tree.needs(module))}\n")
        tree.add(f"{folder}/modules.dep", Entry(stat.S_IFREG | 0o644, "".join(lines).encode()))


def _indexed(kernel: KernelArtifact, cache: Cache) -> str:
    """The kernel's module tree, with a modules.dep."""
    directory = kernel.modules_dir
    if directory is None:
        raise HostError(
            f"kernel modules are wanted, and there are none for {kernel.description}",
            hint="take the kernel from a Debian package (kernel = { deb = … }), or put lib/modules/"
            f"{kernel.release or '<release>'} beside the kernel",
        )
    ours = directory.startswith(tuple(os.path.join(root, "") for root in cache.roots()))
    if ours and not os.path.exists(os.path.join(directory, "modules.dep")):
        # Unpacked while depmod was not installed.
        base = os.path.dirname(os.path.dirname(os.path.dirname(directory)))
        with cache.lock(f"depmod-{kernel.digest}"):
            index(base, kernel.release)
    return directory


def _add_host(tree: Tree, guest: str, host: FilePath, inputs: list[str], folders: list[str]) -> None:
    """A file or a directory of the host, with what its programs are linked against."""
    try:
        _add_found(tree, guest, host, inputs, folders)
    except OSError as error:
        at = error.filename or host.text
        raise HostIoError(f"{at}, wanted in the initramfs below {guest}: {error.strerror}") from error


def _add_found(tree: Tree, guest: str, host: FilePath, inputs: list[str], folders: list[str]) -> None:
    found = os.stat(host.resolved)
    if stat.S_ISDIR(found.st_mode):
        _add_directory(tree, guest, host.resolved, inputs, folders)
    elif stat.S_ISREG(found.st_mode):
        _add_file(tree, guest, host.resolved, found.st_mode, inputs, folders)
    else:
        raise HostError(f"{host.text}, wanted in the initramfs as {guest}, is neither a file nor a directory")


def _add_directory(tree: Tree, guest: str, path: str, inputs: list[str], folders: list[str]) -> None:
    if guest.strip("/"):
        tree.add(guest, Entry(stat.S_IFDIR | stat.S_IMODE(os.stat(path).st_mode)))
    inputs.append(path)
    for name in sorted(os.listdir(path)):
        inner, place = os.path.join(path, name), f"{guest.rstrip('/')}/{name}"
        mode = os.lstat(inner).st_mode
        if stat.S_ISLNK(mode):
            tree.add(place, Entry(stat.S_IFLNK | 0o777, os.fsencode(os.readlink(inner))))
        elif stat.S_ISDIR(mode):
            _add_directory(tree, place, inner, inputs, folders)
        elif stat.S_ISREG(mode):
            _add_file(tree, place, inner, mode, inputs, folders)
        else:
            raise HostError(f"{inner}, wanted in the initramfs, is neither file nor directory nor link")


def _add_file(tree: Tree, guest: str, path: str, mode: int, inputs: list[str], folders: list[str]) -> None:
    tree.add(guest, Entry(stat.S_IFREG | stat.S_IMODE(mode), source=path))
    inputs.append(path)
    if not mode & 0o111:
        return
    for library in libraries.needed_files(path):
        if library not in tree:
            tree.add(library, Entry(_EXECUTABLE, source=library))
            inputs.append(library)
        folder = os.path.dirname(library)
        if folder not in libraries.STANDARD_FOLDERS and folder not in folders:
            folders.append(folder)
