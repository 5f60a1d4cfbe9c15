"""Compile the native part with cffi in API mode, so that the C compiler checks every layout.

The declarations live in the ``.cdef`` files; a ``...;`` in them lets the compiler fill in
sizes, offsets and constants from the system's own ``linux/kvm.h`` (decision 0006).
"""

from __future__ import annotations

import os

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = (
    "memory.c", "vcpu.c", "process.c", "confine.c", "vfio.c", "ring.c", "spin.c", "uring.c",
    "blk_request.c", "blk_overlay.c", "blk_raw.c", "blk.c", "outlet.c", "console.c", "uart_line.c", "uart.c",
)  # fmt: skip
DECLARATIONS = ("kvm.cdef", "vmrun.cdef", "vfio.cdef", "blk.cdef", "console.cdef", "uart.cdef", "vhost.cdef")


def _text(name: str) -> str:
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


ffibuilder = FFI()
for _name in DECLARATIONS:
    ffibuilder.cdef(_text(_name))
ffibuilder.set_source(
    "runner.host.native._native",
    '#include "vmrun.h"\n' + "".join(f'#include "{name}"\n' for name in SOURCES),
    include_dirs=[HERE],
    depends=[os.path.join(HERE, name) for name in (*SOURCES, *DECLARATIONS, "vmrun.h")],
    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
