"""Kernel modules in the order in which they load, from the tree that came with the kernel.

The index is depmod's (modules.dep(5), depmod.d(5)): ``modules.dep``, ``modules.softdep``,
``modules.alias`` and the kernel's own ``modules.builtin``.  A Debian kernel package carries
no ``modules.dep`` (its installation script would make it), so :func:`index` runs depmod once.
"""

from __future__ import annotations

import os

from runner.errors import HostError
from runner.typed import NamedTuple

PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
"""Where depmod is looked for: the path of a user who is not root lacks sbin."""


class Module(NamedTuple):
    """One module file; ``path`` is relative to the tree, ``optional`` when only a soft dependency."""

    name: str  # as the kernel says it, with underscores
    path: str
    optional: bool = False


def canonical(name: str) -> str:
    """modprobe(8): there is no difference between - and _ in module names."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """``kernel/fs/9p/9p.ko.xz`` is ``9p``."""
    return canonical(os.path.basename(path).split(".ko", 1)[0])


def index(base: str, release: str) -> None:
    """Make ``modules.dep`` and its companions in ``base/lib/modules/release``."""
    import shutil
    import subprocess

    try:
        done = subprocess.run(
            [shutil.which("depmod", path=PATH) or "depmod", "-b", base, release],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "PATH": PATH},
        )
    except FileNotFoundError as error:
        raise HostError(
            f"the modules of kernel {release} have no modules.dep yet, and depmod is not installed",
            hint="apt-get install kmod",
        ) from error
    if done.returncode != 0 or not os.path.exists(os.path.join(base, "lib/modules", release, "modules.dep")):
        raise HostError(f"depmod could not read the modules of kernel {release}: {done.stderr.strip()}")


class ModuleTree:
    """The indexed modules of one kernel, ``…/lib/modules/<release>``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._paths: dict[str, str] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        for line in self._lines("modules.dep", required=True):
            path, _, needs = line.partition(":")
            self._paths[module_name(path)] = path
            self._needs[module_name(path)] = tuple(module_name(need) for need in needs.split())
        self._builtin = {module_name(line) for line in self._lines("modules.builtin")}
        self._before: dict[str, tuple[str, ...]] = {}
        self._after: dict[str, tuple[str, ...]] = {}
        for line in self._lines("modules.softdep"):
            self._read_softdep(line)
        self._aliases: dict[str, list[str]] | None = None

    def _lines(self, name: str, required: bool = False) -> list[str]:
        try:
            with open(os.path.join(self.directory, name), encoding="utf-8") as file:
                return [line for line in file.read().splitlines() if line and not line.startswith("#")]
        except OSError as error:
            if not required:
                return []
            raise HostError(
                f"the kernel modules in {self.directory} cannot be used: {name}: {error.strerror}",
                hint=f"depmod {os.path.basename(self.directory)}",
            ) from error

    def _read_softdep(self, line: str) -> None:
        """``softdep NAME pre: a b post: c`` (modprobe.d(5)); a name may have several lines."""
        words = line.split()
        if len(words) < 3 or words[0] != "softdep":
            return
        name, into = canonical(words[1]), self._before
        for word in words[2:]:
            if word in ("pre:", "post:"):
                into = self._before if word == "pre:" else self._after
            else:
                into[name] = (*into.get(name, ()), canonical(word))

    def _alias(self, name: str) -> list[str]:
        """Modules that have ``name`` as an alias without wildcards (``crc32c``, ``fs-ext4``)."""
        if self._aliases is None:
            self._aliases = {}
            for line in self._lines("modules.alias"):
                words = line.split()
                if len(words) == 3 and words[0] == "alias" and ":" not in words[1]:
                    self._aliases.setdefault(canonical(words[1]), []).append(canonical(words[2]))
        return self._aliases.get(name, [])

    def load_order(self, names: tuple[str, ...]) -> tuple[Module, ...]:
        """The named modules and all they need, each once, in an order in which they load.

        A built-in module needs nothing.  Raises HostError for a name that does not exist,
        with the names that are near.
        """
        order: dict[str, None] = {}
        required: set[str] = set()
        for given in names:
            for name in self._resolve(canonical(given)) or self._missing(given):
                required.update((name, *self._needs[name]))  # modules.dep lists needs of needs too
                self._visit(name, order)
        return tuple(Module(name, self._paths[name], name not in required) for name in order)

    def _resolve(self, name: str) -> list[str] | None:
        """Module names for a name or alias; [] when built in; None when there is none."""
        if name in self._paths:
            return [name]
        if name in self._builtin:
            return []
        return self._alias(name) or None

    def _visit(self, name: str, order: dict[str, None]) -> None:
        if name in order or name not in self._paths:
            return
        order[name] = None  # visited: a cycle of soft dependencies ends here …
        for soft in self._before.get(name, ()):
            self._visit_soft(soft, order)
        for need in self._needs[name]:
            self._visit(need, order)
        order[name] = order.pop(name)  # … and it takes its place after what it needs
        for soft in self._after.get(name, ()):
            self._visit_soft(soft, order)

    def _visit_soft(self, name: str, order: dict[str, None]) -> None:
        """A soft dependency may be an alias of several modules, or of none."""
        for found in self._resolve(name) or ():
            self._visit(found, order)

    def _missing(self, given: str) -> list[str]:
        if self._resolve(canonical(given)) is not None:
            return []
        import difflib

        known = sorted(self._paths.keys() | self._builtin)
        near = difflib.get_close_matches(canonical(given), known, n=3, cutoff=0.6)
        release = os.path.basename(self.directory)
        hint = f"did you mean {' or '.join(near)}?" if near else f"its modules are in {self.directory}"
        if "-cloud-" in release:
            hint += " (a -cloud- kernel leaves most drivers out; linux-image-amd64 has them)"
        raise HostError(f"kernel {release} has no module {given!r}", hint=hint)

    def needs(self, module: Module) -> tuple[str, ...]:
        """Paths, without a compression's suffix, of what must be loaded before ``module``."""
        return tuple(self._paths[need].split(".ko", 1)[0] + ".ko" for need in self._needs[module.name])

    def read(self, module: Module) -> bytes:
        """The module's bytes, decompressed: an init_module(2) without kernel help takes plain ELF only."""
        path = os.path.join(self.directory, module.path)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise HostError(f"the kernel module {path} cannot be read: {error.strerror}") from error
        return _decompress(path, data)


def _decompress(path: str, data: bytes) -> bytes:
    """Undo .xz, .gz and .zst, told by the first bytes."""
    if data.startswith(b"\xfd7zXZ\0"):
        import lzma

        return lzma.decompress(data)
    if data.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return _unzstd(path, data)
    if not data.startswith(b"\x7fELF"):
        raise HostError(f"{path} is no kernel module: it starts with {data[:4].hex(' ')}")
    return data


def _unzstd(path: str, data: bytes) -> bytes:
    import subprocess

    try:
        return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
    except FileNotFoundError as error:
        raise HostError(
            f"{path} is compressed with zstd, which is not installed", hint="apt-get install zstd"
        ) from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip()
        raise HostError(f"{path} cannot be decompressed: {words}") from error
