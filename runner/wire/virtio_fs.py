"""virtio-fs' layouts (virtio 1.2 §5.11)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

TAG_LENGTH: Final = 36
_CONFIG: Final = Struct(f"<{TAG_LENGTH}sI")  # tag, padded with zeros; num_request_queues


def config(tag: str, request_queues: int) -> bytes:
    """struct virtio_fs_config up to num_request_queues; 40 bytes."""
    name = tag.encode()
    if len(name) > TAG_LENGTH:
        raise ValueError(f"tag {tag!r} is longer than {TAG_LENGTH} bytes")
    return _CONFIG.pack(name, request_queues)
