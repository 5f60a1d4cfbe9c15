"""virtio-balloon's layouts (virtio 1.2 §5.5)."""

from __future__ import annotations

from struct import Struct

from runner.typed import Final

F_DEFLATE_ON_OOM: Final = 1 << 2
F_PAGE_REPORTING: Final = 1 << 5

CONFIG: Final = Struct("<IIII")  # num_pages, actual, free_page_hint_cmd_id, poison_val
ACTUAL_OFFSET: Final = 4

PAGE_SHIFT: Final = 12  # of page frame numbers, whatever the guest's page size (§5.5.6)
INFLATE: Final = 0
DEFLATE: Final = 1
QUEUES: Final = 5  # inflate, deflate, statistics, free page hints, reporting (§5.5.2)
