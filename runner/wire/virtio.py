"""virtio 1.2: numbers and byte layouts of the transport and the split ring.

Virtual I/O Device (VIRTIO) Version 1.2, §2.1 (status), §2.7 (split virtqueues), §4.1
(PCI), §6 (reserved feature bits).  All little-endian.
"""

from __future__ import annotations

from runner.typed import Final

# §2.1 device status field
ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
NEEDS_RESET: Final = 64
FAILED: Final = 128

# §6 reserved feature bits
F_INDIRECT_DESC: Final = 1 << 28
F_EVENT_IDX: Final = 1 << 29
F_VERSION_1: Final = 1 << 32
F_ACCESS_PLATFORM: Final = 1 << 33
F_RING_PACKED: Final = 1 << 34
RING_FEATURES: Final = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1
"""What this ring and transport implement, offered for every device."""

# §2.7.5 descriptors: address u64, length u32, flags u16, next u16
DESC_SIZE: Final = 16
DESC_NEXT: Final = 1
DESC_WRITE: Final = 2
DESC_INDIRECT: Final = 4
AVAIL_NO_INTERRUPT: Final = 1
USED_NO_NOTIFY: Final = 1
MAX_QUEUE_SIZE: Final = 32768

# §4.1.2 identity: transitional ids are never used here
PCI_VENDOR: Final = 0x1AF4
PCI_DEVICE_BASE: Final = 0x1040
PCI_REVISION: Final = 1

# §4.1.4 structures
CFG_COMMON: Final = 1
CFG_NOTIFY: Final = 2
CFG_ISR: Final = 3
CFG_DEVICE: Final = 4
CFG_PCI: Final = 5
ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2
NO_VECTOR: Final = 0xFFFF

# §4.1.4.3 common configuration: offset in the structure
COMMON_DEVICE_FEATURE_SELECT: Final = 0x00
COMMON_DEVICE_FEATURE: Final = 0x04
COMMON_DRIVER_FEATURE_SELECT: Final = 0x08
COMMON_DRIVER_FEATURE: Final = 0x0C
COMMON_CONFIG_VECTOR: Final = 0x10
COMMON_NUM_QUEUES: Final = 0x12
COMMON_STATUS: Final = 0x14
COMMON_GENERATION: Final = 0x15
COMMON_QUEUE_SELECT: Final = 0x16
COMMON_QUEUE_SIZE: Final = 0x18
COMMON_QUEUE_VECTOR: Final = 0x1A
COMMON_QUEUE_ENABLE: Final = 0x1C
COMMON_QUEUE_NOTIFY_OFF: Final = 0x1E
COMMON_QUEUE_DESC: Final = 0x20
COMMON_QUEUE_DRIVER: Final = 0x28
COMMON_QUEUE_DEVICE: Final = 0x30
COMMON_QUEUE_NOTIFY_DATA: Final = 0x38
COMMON_QUEUE_RESET: Final = 0x3A
COMMON_SIZE: Final = 0x3C

# §5 device ids
ID_NET: Final = 1
ID_BLOCK: Final = 2
ID_CONSOLE: Final = 3
ID_ENTROPY: Final = 4
ID_BALLOON: Final = 5
ID_VSOCK: Final = 19
ID_FS: Final = 26
ID_PMEM: Final = 27
