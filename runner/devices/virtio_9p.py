"""A directory of the host over 9p, served by QEMU itself (virtio device type 9).

The virtual file system's protocol is 9P2000.L; the guest mounts it by tag.  Only the
``qemu`` engine has it; `virtio_fs` is what both have.
"""

from __future__ import annotations

from runner.definition.model import Json
from runner.graph.model import BackendClaim, BarClaim, Claim, Node, PciClaim
from runner.graph.qemu_words import device_id, escaped, place
from runner.typed import Mapping

VENDOR, DEVICE = 0x1AF4, 0x1049  # virtio 1.2, section 4.1.2: 0x1040 + device type
CLASS = 0x00_02_00


def claim(name: str, options: Mapping[str, Json]) -> Claim:
    """A modern virtio function with two vectors, and the directory as its backend."""
    folder = {"path": options.get("path"), "readonly": options.get("readonly", False)}
    return Claim(
        pci=PciClaim(
            VENDOR, DEVICE, CLASS, VENDOR, 0x1100, revision=1,
            bars=(BarClaim(1, 0x1000, "mem32"), BarClaim(4, 0x4000, "mem64", prefetchable=True)),
            msix_vectors=2, intx_pin=1,
        ),
        backends=(BackendClaim(name, "folder", folder),),
    )  # fmt: skip


def qemu(node: Node) -> tuple[str, ...]:
    """The export and its device.  File ids of several host file systems are kept apart (``multidevs``)."""
    path = node.options["path"]
    resolved = str(path["resolved"] if isinstance(path, dict) else path)
    readonly = ",readonly=on" if node.options.get("readonly") else ""
    export = f"local,id={device_id(node)}.export,path={escaped(resolved)},security_model=none,multidevs=remap"
    tag = escaped(str(node.options.get("tag", node.name)))
    device = f"virtio-9p-pci,{place(node)},disable-legacy=on,fsdev={device_id(node)}.export,mount_tag={tag}"
    return ("-fsdev", export + readonly, "-device", device)
