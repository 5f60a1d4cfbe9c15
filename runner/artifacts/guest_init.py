"""The guest's first process: a shell script for busybox, as short as a boot should be.

Each command that busybox does not have built into its shell costs a fork and an exec, so one
``mount`` mounts all and one ``modprobe`` loads all, and the script ends by becoming
:mod:`runner.artifacts.guest_exit`, which hands over the status of the run.
"""

from __future__ import annotations

from itertools import groupby

from runner.artifacts.modules import Module
from runner.typed import Sequence

FOLDER = "/.vmrun"
MOUNTS = "proc /proc proc defaults 0 0\nsysfs /sys sysfs defaults 0 0\ndev /dev devtmpfs defaults 0 0\n"
NEEDED_APPLETS = frozenset(("sh", "mount", "modprobe", "setsid", "cttyhack"))

_START = f"""\
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -a -T {FOLDER}/mounts
"""

# A console whose driver is a module exists only now, and one with ports beside it (virtio 1.2 §5.3.6.2) a
# moment later.  Without any console all goes to /dev/null.
_CONSOLE = """\
tries=0
until true <>/dev/console; do
  read -r words </proc/cmdline
  case " $words" in *" console=hvc"*) [ $tries -lt 50 ] || break ;; *) break ;; esac
  tries=$((tries + 1))
  sleep 0.1
done 2>/dev/null
if true <>/dev/console; then exec <>/dev/console >&0 2>&0; else exec <>/dev/null >&0 2>&0; fi 2>/dev/null
"""

_RUN = f"""\
(. {FOLDER}/run)
exec {FOLDER}/exit $?
"""

# As a kernel without an initramfs would: the same words of its command line decide (ro, rw, rootflags,
# rootfstype, init: Documentation/admin-guide/kernel-parameters.txt).  A disk may appear a moment after
# its driver has been loaded, so a failed mount is tried again.
_ROOT = """\
root={root} mode=ro type= flags= init=/sbin/init
read -r words </proc/cmdline
for word in $words; do
  case $word in
    ro|rw) mode=$word ;;
    rootflags=*) flags=,${{word#*=}} ;;
    rootfstype=*) type="-t ${{word#*=}}" ;;
    init=*) init=${{word#*=}} ;;
  esac
done
mkdir /newroot
tries=0
until said=$(mount $type -o "$mode$flags" "$root" /newroot 2>&1); do
  tries=$((tries + 1))
  [ $tries -lt 50 ] || {{ echo "vmrun: no root file system on $root: $said"; exec {folder}/exit 1; }}
  sleep 0.1
done
[ -L "/newroot$init" ] || [ -x "/newroot$init" ] ||
  {{ echo "vmrun: the file system on $root has no $init"; exec {folder}/exit 1; }}
for each in dev proc sys; do mount --move "/$each" "/newroot/$each"; done
exec switch_root /newroot "$init"
"""

_SHELL = f"""\
setsid cttyhack sh
exec {FOLDER}/exit
"""


def script(
    modules: Sequence[Module], library_folders: Sequence[str], run: str | None, root: str | None = None
) -> str:
    """The text of /init.  Modules are loaded as ordered; an optional one may fail without a word."""
    lines = [_START]
    if library_folders:
        lines.append(f"export LD_LIBRARY_PATH={quoted(':'.join(library_folders))}\n")
    for optional, group in groupby(modules, key=lambda module: module.optional):
        names = " ".join(quoted(module.name) for module in group)
        lines.append(f"modprobe -a {names}{' 2>/dev/null' if optional else ''}\n")
    if root is not None:
        work = _ROOT.format(root=quoted(root), folder=FOLDER)
    else:
        work = _SHELL if run is None else _RUN
    return "".join((*lines, _CONSOLE, work))


def quoted(word: str) -> str:
    """A word as the shell reads it back."""
    if word.replace("_", "").isalnum():
        return word
    return "'" + word.replace("'", "'\\''") + "'"
