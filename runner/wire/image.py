"""Checked reading of an untrusted file that is to be loaded (device-bugs 19).

Every offset and size that a kernel file states about itself goes through :func:`take`
or :func:`within`; nothing else slices the file.
"""

from __future__ import annotations

from runner.errors import DefinitionError
from runner.typed import Protocol


class KernelError(DefinitionError):
    """The kernel file is not what it should be, or cannot be loaded into this machine."""


class Image(Protocol):
    """The bytes of a file: ``bytes``, an ``mmap``, or anything that reads on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


def within(image: Image, offset: int, size: int, what: str) -> None:
    """Raise KernelError unless ``offset`` + ``size`` lies inside the file."""
    if offset < 0 or size < 0 or offset + size > len(image):
        raise KernelError(
            f"{what} is said to be at file offset {offset:#x}, {size:#x} bytes long, "
            f"but the kernel file ends at {len(image):#x}",
            hint="the file is damaged or cut off: fetch or build it again",
        )


def take(image: Image, offset: int, size: int, what: str) -> bytes:
    """Copy ``size`` bytes at ``offset`` out; ``what`` names them in the error."""
    within(image, offset, size, what)
    return image[offset : offset + size]
