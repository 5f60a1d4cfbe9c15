"""Where this program keeps things, and whether a folder is ours alone.

One rule each, since what is read back from such a folder is believed: it becomes writes to sysfs,
signals to processes and kernels that are booted.
"""

from __future__ import annotations

import os

from runner.typed import Mapping

_KIND, _FOLDER, _OTHERS_WRITE = 0o170000, 0o040000, 0o022  # inode(7)


def base(variable: str, below_home: str, environ: Mapping[str, str] = os.environ) -> str:
    """``$XDG_…_HOME`` or its default; a relative one is ignored (XDG Base Directory Specification 0.8)."""
    said = environ.get(variable, "")
    return said if os.path.isabs(said) else os.path.join(os.path.expanduser("~"), below_home)


def is_ours_alone(folder: str) -> bool:
    """A real folder (no link that somebody planted), owned by us, that nobody else can write to."""
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return found.st_uid == os.geteuid() and found.st_mode & (_KIND | _OTHERS_WRITE) == _FOLDER
