"""virtio-net: iperf3 between the guest and the machine that it runs on, by tap and vhost-net."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial

from bench.machines import Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import Program, RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "net"
TITLE = "virtio-net, tap and vhost-net"
IN_QUICK = False
NEEDS_KVM = True
METHOD = """\
iperf3, one TCP stream, between the guest (one vCPU, 256 MiB) and the machine that it runs on, over one
tap that both monitors get in turns; both use vhost-net with all offloads. Both directions in one boot."""
METRICS = (
    Metric("out", "guest to host", "Mbit/s", True, goals=(Goal(1.0, (Q35.name,)),)),
    Metric("into", "host to guest", "Mbit/s", True, goals=(Goal(1.0, (Q35.name,)),)),
)
TAP, HOST_ADDRESS, GUEST_ADDRESS = "vmrunbench", "10.213.77.1", "10.213.77.2"
SECONDS = 6
DEADLINE = 100.0
END = b"bench: iperf3 is done"
RUN = f"""\
for i in $(seq 200); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done
ip link set lo up; ip addr add {GUEST_ADDRESS}/24 dev eth0; ip link set eth0 up
for i in $(seq 50); do ping -c 1 -W 1 {HOST_ADDRESS} >/dev/null && break; done
for way in out into; do
    [ $way = into ] && option=-R || option=
    iperf3 -c {HOST_ADDRESS} -t {SECONDS} -f k $option > /tmp/$way 2>&1
    awk -v way=$way '/receiver/ {{ print "iperf3", way, $7 }}' /tmp/$way
    grep -i error /tmp/$way
done
echo '{END.decode()}'
exec sleep 1000
"""


def _guest_facts() -> dict[str, object]:
    iperf3 = shutil.which("iperf3")
    if iperf3 is None:
        raise RunFailed("iperf3 is not installed (apt-get install iperf3)")
    return {"modules": ("virtio_pci", "virtio_net"), "files": (("/usr/bin/iperf3", iperf3),)}


def prepare() -> None:
    """The guest's files, iperf3 and its libraries among them."""
    from bench.guests import work

    work(NAME, RUN, **_guest_facts())


def measure(bench: Bench) -> None:
    """Both monitors in turns on one tap, with one server."""
    guest = bench.guest(NAME, RUN, **_guest_facts())._replace(tap=TAP)
    _ip("tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr")
    try:
        _ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", TAP)
        _ip("link", "set", TAP, "up")
        contestants = [
            Contestant(machine.name, partial(_iperf, bench, machine, guest))
            for machine in bench.machines(VMRUN, Q35)
        ]
        with Program(["iperf3", "-s", "-B", HOST_ADDRESS]):
            bench.interleave(contestants, Plan(4, 1))
    finally:
        _ip("link", "del", TAP)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _iperf(bench: Bench, machine: Machine, guest: Guest) -> Sample:
    return parse(bench.said(machine, guest, END, DEADLINE))


def parse(output: bytes) -> Sample:
    """The guest's lines ("iperf3 out 123456", kbit/s).  Raises RunFailed."""
    sample: Sample = {}
    for line in output.decode(errors="replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "iperf3" and words[1] in ("out", "into"):
            sample[words[1]] = float(words[2]) / 1000
    if lacking := [way for way in ("out", "into") if not sample.get(way)]:
        raise RunFailed(f"iperf3 has not told of {', '.join(lacking)}: {output[-600:]!r}")
    return sample
