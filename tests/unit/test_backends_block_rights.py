"""A disk that the definition does not let be written is opened so that nobody can."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.backends import block
from tests.unit.test_backends_qcow2 import Graph


def ways_open(process: int | str, image: Path) -> list[int]:
    """How (O_RDONLY or O_RDWR) each descriptor that a process has of the image is open."""
    found = []
    for fd in Path(f"/proc/{process}/fd").iterdir():
        if fd.is_symlink() and os.readlink(fd) == str(image):
            info = Path(f"/proc/{process}/fdinfo/{fd.name}").read_text()
            flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
            found.append(int(flags, 8) & os.O_ACCMODE)
    return found


WAYS = [({}, os.O_RDWR), ({"readonly": True}, os.O_RDONLY), ({"ephemeral": True}, os.O_RDONLY)]


@pytest.mark.parametrize(("options", "way"), WAYS)
@pytest.mark.parametrize("engine", ["kvm", "qemu"])
def test_a_raw_image_is_open_for_writing_only_where_it_may_be_written(
    tmp_path: Path, options: dict[str, Any], way: int, engine: str
) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(1 << 20))
    graph: Any = Graph({"path": {"text": "a.img", "resolved": str(image)}, "format": "raw", **options})
    graph.engine = graph.engine._replace(name=engine)
    opened = block.open_host(graph.claim, graph)
    assert ways_open("self", image) == [way]
    opened.close()


@pytest.mark.parametrize(("options", "way"), WAYS)
def test_a_qcow2_image_is_open_in_its_daemon_only_where_it_may_be_written(
    tmp_path: Path, options: dict[str, Any], way: int
) -> None:
    """The descriptor that it was given, and the one that it opened from it."""
    image = tmp_path / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    graph: Any = Graph({"path": {"text": "a", "resolved": str(image)}, "format": "qcow2", **options})
    opened = block.open_host(graph.claim, graph)
    assert ways_open("self", image) == []
    assert set(ways_open(opened.helpers[0].pid, image)) == {way}
    opened.close()
