"""For each key of a definition two texts that differ in it: what the test of their effects goes through.

The texts are what follows HEAD; a key that has to be said is said differently in both.
"""

from __future__ import annotations

HEAD = 'cmdline = "console=ttyS0"\n'
KERNEL = 'kernel = "vmlinuz"\n'

RAW = '[disks.root]\npath = "root.img"\nformat = "raw"\n'
NET = "[net.lan]\n"
TAP = '[net.lan]\nbackend = "tap"\n'
FORWARD = "[net.lan]\nforwards = [{ host = 2222, guest = 22 }]\n"
FOLDER = '[fs.src]\npath = "src"\n'
NINE = '[fs.src]\ndriver = "9p"\npath = "src"\n'
PMEM = '[pmem.root]\npath = "root.img"\nsize = "64M"\n'
PORT = '[devices.port]\ndriver = "pcie-root-port"\n'
CARD = '[devices.card]\ndriver = "e1000e"\n'
NVME = '[devices.disk]\ndriver = "nvme"\npath = "d.img"\nformat = "raw"\n'
BLANK = '[devices.disk]\ndriver = "nvme"\nblank = "1M"\n'
USB = '[devices.usb]\ndriver = "qemu-xhci"\n'
READER = '[devices.sd]\ndriver = "sdhci-pci"\ncard = "c.img"\nformat = "raw"\n'
EMPTY = '[devices.sd]\ndriver = "sdhci-pci"\nblank = "1M"\n'
PASSED = '[devices.reader]\ndriver = "vfio"\n'
OURS = 'host = "01:00.0"\n'
VSOCK = "[vsock]\ncid = 3\n"
PORTS = '[console]\ntarget = "null"\nports = [{ name = "a", target = "null" }]\n'
ZONES = '[memory]\nsize = "2G"\nzones = ['
SLOT = 'slot = "00:0f.0"\n'
BELOW = 'bus = "port"\n' + PORT

CHANGES: dict[str, tuple[str, str]] = {
    "name": (NET, 'name = "other"\n' + NET),
    "extends": ("", 'extends = "piece.toml"\n'),
    "kernel": ('kernel = "vmlinuz"\n', 'kernel = "other"\n'),
    "kernel.deb": ('kernel = { deb = "linux-a" }\n', 'kernel = { deb = "linux-b" }\n'),
    "kernel.version": ('kernel = { deb = "linux-a" }\n', 'kernel = { deb = "linux-a", version = "6.1" }\n'),
    "kernel.url": (
        f'kernel = {{ url = "https://a/k", sha256 = "{"0" * 64}" }}\n',
        f'kernel = {{ url = "https://b/k", sha256 = "{"0" * 64}" }}\n',
    ),
    "kernel.sha256": (
        f'kernel = {{ url = "https://a/k", sha256 = "{"0" * 64}" }}\n',
        f'kernel = {{ url = "https://a/k", sha256 = "{"1" * 64}" }}\n',
    ),
    "initramfs": ("", 'initramfs = "initrd"\n'),
    "initramfs.run": ("[initramfs]\n", '[initramfs]\nrun = "true"\n'),
    "initramfs.modules": ("[initramfs]\n", '[initramfs]\nmodules = ["virtio_blk"]\n'),
    "initramfs.files": ("[initramfs]\n", '[initramfs]\nfiles = { "/a" = "a" }\n'),
    "initramfs.root": ("[initramfs]\n", '[initramfs]\nroot = "/dev/vda"\n'),
    "initramfs.busybox": ("[initramfs]\n", '[initramfs]\nbusybox = "busybox"\n'),
    "cmdline": ("", 'cmdline = "quiet console=ttyS0"\n'),
    "shorten_boot": ("", 'shorten_boot = ["reliable-tsc"]\n'),
    "cpus": ("", "cpus = 2\n"),
    "cpus.count": ("[cpus]\ncount = 1\n", "[cpus]\ncount = 2\n"),
    "cpus.topology": ("[cpus]\ncount = 4\n", "[cpus]\ncount = 4\ntopology = { cores = 2, threads = 2 }\n"),
    "cpus.topology.sockets": (
        "[cpus]\ncount = 2\ntopology = { cores = 2 }\n",
        "[cpus]\ncount = 2\ntopology = { sockets = 2 }\n",
    ),
    "cpus.topology.cores": (
        "[cpus]\ncount = 4\ntopology = { cores = 2, threads = 2 }\n",
        "[cpus]\ncount = 4\ntopology = { cores = 4 }\n",
    ),
    "cpus.topology.threads": (
        "[cpus]\ncount = 4\ntopology = { sockets = 2, threads = 2 }\n",
        "[cpus]\ncount = 4\ntopology = { sockets = 4, threads = 1 }\n",
    ),
    "cpus.model": ("[cpus]\ncount = 1\n", '[cpus]\ncount = 1\nmodel = "EPYC"\n'),
    "cpus.features": ("[cpus]\ncount = 1\n", '[cpus]\ncount = 1\nfeatures = ["-aes"]\n'),
    "cpus.affinity": ("[cpus]\ncount = 1\n", "[cpus]\ncount = 1\naffinity = [[0]]\n"),
    "memory": ("", 'memory = "1G"\n'),
    "memory.size": ('[memory]\nsize = "1G"\n', '[memory]\nsize = "2G"\n'),
    "memory.hugepages": ('[memory]\nsize = "1G"\n', '[memory]\nsize = "1G"\nhugepages = "2M"\n'),
    "memory.shared": ('[memory]\nsize = "1G"\n', '[memory]\nsize = "1G"\nshared = true\n'),
    "memory.prefault": ('[memory]\nsize = "1G"\n', '[memory]\nsize = "1G"\nprefault = true\n'),
    "memory.merge": ('[memory]\nsize = "1G"\n', '[memory]\nsize = "1G"\nmerge = true\n'),
    "memory.zones": ('[memory]\nsize = "2G"\n', ZONES + '{ size = "2G", cpus = [0] }]\n'),
    "memory.zones.size": (
        "cpus = 2\n" + ZONES + '{ size = "1G", cpus = [0] }, { size = "1G", cpus = [1] }]\n',
        "cpus = 2\n" + ZONES + '{ size = "512M", cpus = [0] }, { size = "1536M", cpus = [1] }]\n',
    ),
    "memory.zones.cpus": (
        "cpus = 2\n" + ZONES + '{ size = "1G", cpus = [0] }, { size = "1G", cpus = [1] }]\n',
        "cpus = 2\n" + ZONES + '{ size = "1G", cpus = [1] }, { size = "1G", cpus = [0] }]\n',
    ),
    "engine": ("", 'engine = "qemu"\n'),
    "accelerator": ("", 'accelerator = "kvm"\n'),
    "timeout": ("", 'timeout = "5s"\n'),
    "expect": ("", '[expect]\nconsole = ["login:"]\n'),
    "expect.console": ("[expect]\n", '[expect]\nconsole = ["login:"]\n'),
    "expect.reason": ("[expect]\n", '[expect]\nreason = "panic"\n'),
    "expect.status": ("[expect]\n", "[expect]\nstatus = 3\n"),
    "expect.stop": ('[expect]\nconsole = ["a"]\n', '[expect]\nconsole = ["a"]\nstop = true\n'),
    "params": ('cmdline = "console=ttyS0 a={{x}}"\n', 'cmdline = "console=ttyS0 a={{x}}"\n[params]\nx = 1\n'),
    "params.description": (
        'cmdline = "console=ttyS0 a={{x}}"\n[params.x]\ndefault = 1\n',
        'cmdline = "console=ttyS0 a={{x}}"\n[params.x]\ndefault = 1\ndescription = "what"\n',
    ),
    "params.default": (
        'cmdline = "console=ttyS0 a={{x}}"\n[params.x]\ndefault = 1\n',
        'cmdline = "console=ttyS0 a={{x}}"\n[params.x]\ndefault = 2\n',
    ),
    "iommu": ("", "[iommu]\n"),
    "iommu.model": ("[iommu]\n", '[iommu]\nmodel = "intel"\n'),
    "iommu.interrupt_remapping": ("[iommu]\n", "[iommu]\ninterrupt_remapping = false\n"),
    "iommu.caching": ("[iommu]\n", "[iommu]\ncaching = true\n"),
    "disks": ("", RAW),
    "disks.bus": (RAW, RAW + 'bus = "virtio"\n'),
    "disks.path": (RAW, RAW.replace("root.img", "other.img")),
    "disks.format": (RAW, RAW.replace("raw", "qcow2")),
    "disks.readonly": (RAW, RAW + "readonly = true\n"),
    "disks.ephemeral": (RAW, RAW + "ephemeral = true\n"),
    "disks.direct": (RAW, RAW + "direct = true\n"),
    "disks.cache": (RAW, RAW + 'cache = "writethrough"\n'),
    "disks.serial": (RAW, RAW + 'serial = "S1"\n'),
    "disks.queues": (RAW, RAW + "queues = 2\n"),
    "disks.slot": (RAW, RAW + SLOT),
    "net": ("", NET),
    "net.backend": (NET, TAP),
    "net.tap": (TAP, TAP + 'tap = "tap7"\n'),
    "net.mac": (NET, NET + 'mac = "52:54:00:00:00:01"\n'),
    "net.queues": (TAP, TAP + "queues = 2\n"),
    "net.mtu": (NET, NET + "mtu = 9000\n"),
    "net.forwards": (NET, FORWARD),
    "net.forwards.protocol": (FORWARD, FORWARD.replace("host", 'protocol = "udp", host')),
    "net.forwards.address": (FORWARD, FORWARD.replace("host", 'address = "0.0.0.0", host')),
    "net.forwards.host": (FORWARD, FORWARD.replace("2222", "2223")),
    "net.forwards.guest": (FORWARD, FORWARD.replace("= 22 ", "= 23 ")),
    "net.offload": (TAP, TAP + "offload = false\n"),
    "net.slot": (NET, NET + SLOT),
    "fs": ("", FOLDER),
    "fs(virtio_9p).driver": (FOLDER, NINE),
    "fs(virtio_9p).path": (NINE, NINE.replace('"src"', '"lib"')),
    "fs(virtio_9p).tag": (NINE, NINE + 'tag = "t"\n'),
    "fs(virtio_9p).readonly": (NINE, NINE + "readonly = true\n"),
    "fs(virtio_9p).slot": (NINE, NINE + SLOT),
    "fs(virtio_fs).driver": (NINE, FOLDER + 'driver = "virtiofs"\n'),
    "fs(virtio_fs).path": (FOLDER, FOLDER.replace('"src"', '"lib"')),
    "fs(virtio_fs).tag": (FOLDER, FOLDER + 'tag = "t"\n'),
    "fs(virtio_fs).readonly": (FOLDER, FOLDER + "readonly = true\n"),
    "fs(virtio_fs).slot": (FOLDER, FOLDER + SLOT),
    "pmem": ("", PMEM),
    "pmem.path": (PMEM, PMEM.replace("root.img", "other.img")),
    "pmem.size": (PMEM, PMEM.replace("64M", "128M")),
    "pmem.readonly": (PMEM, PMEM + "readonly = true\n"),
    "pmem.slot": (PMEM, PMEM + SLOT),
    "devices": ("", PORT),
    "devices(e1000e).driver": (USB.replace("usb", "card"), CARD),
    "devices(e1000e).mac": (CARD, CARD + 'mac = "52:54:00:00:00:01"\n'),
    "devices(e1000e).slot": (CARD, CARD + SLOT),
    "devices(e1000e).bus": (CARD + PORT, CARD + BELOW),
    "devices(nvme).driver": (USB.replace("usb", "disk"), BLANK),
    "devices(nvme).path": (NVME, NVME.replace("d.img", "e.img")),
    "devices(nvme).blank": (BLANK, BLANK.replace("1M", "2M")),
    "devices(nvme).format": (NVME, NVME.replace("raw", "qcow2")),
    "devices(nvme).serial": (NVME, NVME + 'serial = "S1"\n'),
    "devices(nvme).slot": (NVME, NVME + SLOT),
    "devices(nvme).bus": (NVME + PORT, NVME + BELOW),
    "devices(pcie_root_port).driver": (USB.replace("usb", "port"), PORT),
    "devices(pcie_root_port).slot": (PORT, PORT + SLOT),
    "devices(qemu_xhci).driver": (CARD.replace("card", "usb"), USB),
    "devices(qemu_xhci).messages": (USB, USB + 'messages = "msi"\n'),
    "devices(qemu_xhci).slot": (USB, USB + SLOT),
    "devices(qemu_xhci).bus": (USB + PORT, USB + BELOW),
    "devices(sdhci_pci).driver": (CARD.replace("card", "sd"), EMPTY),
    "devices(sdhci_pci).card": (READER, READER.replace("c.img", "e.img")),
    "devices(sdhci_pci).blank": (EMPTY, EMPTY.replace("1M", "2M")),
    "devices(sdhci_pci).format": (READER, READER.replace("raw", "qcow2")),
    "devices(sdhci_pci).slot": (READER, READER + SLOT),
    "devices(sdhci_pci).bus": (READER + PORT, READER + BELOW),
    "devices(vfio).driver": (PORT.replace("port]", "reader]"), PASSED + OURS),
    "devices(vfio).path": (
        PASSED + 'path = "/sys/bus/pci/devices/0000:01:00.0"\n',
        PASSED + 'path = "/sys/bus/pci/devices/0000:3d:00.0"\n',
    ),
    "devices(vfio).host": (PASSED + OURS, PASSED + 'host = "3d:00.0"\n'),
    "devices(vfio).match": (PASSED + OURS, PASSED + 'match = { class = "0108" }\n'),
    "devices(vfio).match.vendor": (
        PASSED + 'match = { vendor = "10ec" }\n',
        PASSED + 'match = { vendor = "144d" }\n',
    ),
    "devices(vfio).match.device": (
        PASSED + 'match = { device = "525a" }\n',
        PASSED + 'match = { device = "a808" }\n',
    ),
    "devices(vfio).match.serial": (
        PASSED + 'match = { class = "0108" }\n',
        PASSED + 'match = { serial = "00-00-00-01-00-4c-e0-00" }\n',
    ),
    "devices(vfio).match.slot": (PASSED + 'match = { slot = "3" }\n', PASSED + 'match = { slot = "4" }\n'),
    "devices(vfio).match.class": (
        PASSED + 'match = { class = "ff" }\n',
        PASSED + 'match = { class = "0108" }\n',
    ),
    "devices(vfio).bind": (PASSED + OURS, PASSED + OURS + 'bind = "never"\n'),
    "devices(vfio).allow_no_reset": (PASSED + OURS, PASSED + OURS + "allow_no_reset = true\n"),
    "devices(vfio).allow_unsafe_interrupts": (
        PASSED + OURS,
        PASSED + OURS + "allow_unsafe_interrupts = true\n",
    ),
    "devices(vfio).rom": (PASSED + OURS, PASSED + OURS + "rom = false\n"),
    "devices(vfio).slot": (PASSED + OURS, PASSED + OURS + SLOT),
    "devices(vfio).bus": (PASSED + OURS + PORT, PASSED + OURS + BELOW),
    "debugcon": ("", 'debugcon = "null"\n'),
    "debugcon.file": ('debugcon = { file = "a" }\n', 'debugcon = { file = "b" }\n'),
    "debugcon.socket": ('debugcon = { socket = "a" }\n', 'debugcon = { socket = "b" }\n'),
    "watchdog": ("", "watchdog = true\n"),
    "watchdog.action": ("[watchdog]\n", '[watchdog]\naction = "none"\n'),
    "watchdog.slot": ("[watchdog]\n", "[watchdog]\n" + SLOT),
    "pvpanic": ("", "pvpanic = true\n"),
    "serial": ("", 'serial = "off"\n'),
    "serial.file": ('serial = { file = "a" }\n', 'serial = { file = "b" }\n'),
    "serial.socket": ('serial = { socket = "a" }\n', 'serial = { socket = "b" }\n'),
    "balloon": ("", "balloon = true\n"),
    "balloon.free_page_reporting": ("[balloon]\n", "[balloon]\nfree_page_reporting = false\n"),
    "balloon.deflate_on_oom": ("[balloon]\n", "[balloon]\ndeflate_on_oom = true\n"),
    "balloon.slot": ("[balloon]\n", "[balloon]\n" + SLOT),
    "console": ("", 'console = "null"\n'),
    "console.file": ('console = { file = "a" }\n', 'console = { file = "b" }\n'),
    "console.socket": ('console = { socket = "a" }\n', 'console = { socket = "b" }\n'),
    "console.target": (PORTS, PORTS.replace('target = "null"\n', 'target = "pty"\n')),
    "console.target.file": (
        PORTS.replace('target = "null"\n', 'target = { file = "a" }\n'),
        PORTS.replace('target = "null"\n', 'target = { file = "b" }\n'),
    ),
    "console.target.socket": (
        PORTS.replace('target = "null"\n', 'target = { socket = "a" }\n'),
        PORTS.replace('target = "null"\n', 'target = { socket = "b" }\n'),
    ),
    "console.ports": ('console = "null"\n', PORTS),
    "console.ports.name": (PORTS, PORTS.replace('name = "a"', 'name = "b"')),
    "console.ports.target": (PORTS, PORTS.replace('target = "null" }', 'target = "pty" }')),
    "console.ports.target.file": (
        PORTS.replace('target = "null" }', 'target = { file = "a" } }'),
        PORTS.replace('target = "null" }', 'target = { file = "b" } }'),
    ),
    "console.ports.target.socket": (
        PORTS.replace('target = "null" }', 'target = { socket = "a" } }'),
        PORTS.replace('target = "null" }', 'target = { socket = "b" } }'),
    ),
    "rng": ("", "rng = true\n"),
    "rng.slot": ("[rng]\n", "[rng]\n" + SLOT),
    "vsock": ("", VSOCK),
    "vsock.cid": (VSOCK, "[vsock]\ncid = 4\n"),
    "vsock.socket": (VSOCK, VSOCK + 'socket = "v.sock"\n'),
    "vsock.slot": (VSOCK, VSOCK + SLOT),
}
