"""What the doctor's advice depends on: distribution, user, CPU, and what the kernel has."""

from __future__ import annotations

import os

from runner.host.diagnosis import Surroundings
from runner.host.helper_process import has_landlock
from runner.host.survey import DEVICES
from runner.host.sysfs import HostSysfs, Sysfs, text_or

DEBIAN_FAMILY = ("debian", "ubuntu")


def surroundings(sysroot: str = "/") -> Surroundings:
    """Read os-release, the user's name, the first CPU's flags, and which device nodes are there."""
    sysfs = HostSysfs(sysroot)
    flags = text_or(sysfs, "/proc/cpuinfo").partition("flags\t")[2].partition("\n")[0].split()
    names, release = _distribution(sysfs)
    return Surroundings(
        user=os.environ.get("SUDO_USER") or os.environ.get("USER") or "USER",
        distribution="debian" if any(name in DEBIAN_FAMILY for name in names) else "",
        release=release,
        cpu_can_virtualize="vmx" in flags or "svm" in flags,
        loadable=_loadable(sysfs),
        nodes=tuple(node for node in DEVICES if sysfs.exists(node)),
        landlock=has_landlock(),
    )


def _loadable(sysfs: Sysfs) -> tuple[str, ...]:
    """Module names out of modules.dep(5), "kernel/drivers/vhost/vhost_net.ko.xz: …", with underscores."""
    release = text_or(sysfs, "/proc/sys/kernel/osrelease")
    lines = text_or(sysfs, f"/lib/modules/{release}/modules.dep").splitlines()
    files = (line.partition(":")[0].rpartition("/")[2] for line in lines)
    return tuple(sorted(name.partition(".ko")[0].replace("-", "_") for name in files))


def _distribution(sysfs: Sysfs) -> tuple[list[str], int]:
    """ID and ID_LIKE, and the major number of Debian's VERSION_ID (os-release(5))."""
    rows = dict(line.split("=", 1) for line in text_or(sysfs, "/etc/os-release").splitlines() if "=" in line)
    values = {key: value.strip('"') for key, value in rows.items()}
    name = values.get("ID", "")
    major = values.get("VERSION_ID", "").partition(".")[0]
    return [name, *values.get("ID_LIKE", "").split()], int(
        major
    ) if name == "debian" and major.isdigit() else 0
