"""virtio-pmem's layouts (virtio 1.2 §5.19)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

CONFIG: Final = Struct("<QQ")  # start, size
REQUEST: Final = Struct("<I")  # type
RESPONSE: Final = Struct("<I")  # ret
REQUEST_FLUSH: Final = 0
RESPONSE_OK: Final = 0
RESPONSE_ERROR: Final = 1
