"""virtio-blk: fio in the guest on a raw image in the host's memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from typing import NamedTuple

from bench.machines import Q35, VMRUN, Guest, Machine
from bench.metrics import Goal, Metric
from bench.process import RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "disk"
TITLE = "virtio-blk, raw image"
IN_QUICK = False
NEEDS_KVM = True
METHOD = """\
fio in the guest on /dev/vda (O_DIRECT): a raw image of 256 MiB on a tmpfs of the machine that the guest
runs on, written once before, so that the device is measured and no medium. fio does as little of its own
as it can, or one would measure fio: io_uring with registered buffers and files, no clock for each request,
and at depth 32 up to 16 requests with one system call, as programs do that want this depth. One
vCPU, 640 MiB. QEMU has an iothread and io_uring. All six jobs run in one boot of the guest, each for
some seconds; the next boot is the other monitor's, on the same image."""
IMAGE_MIB = 256


class Job(NamedTuple):
    """One fio job: what it does, in blocks of how much, with how many at once."""

    key: str
    kind: str
    block: str
    depth: int

    @property
    def reads(self) -> bool:
        """Whether it reads."""
        return "read" in self.kind

    @property
    def title(self) -> str:
        """For people."""
        random = "random" if self.kind.startswith("rand") else "sequential"
        size = "4 KiB" if self.block == "4k" else "1 MiB"
        return f"{size} {random} {'read' if self.reads else 'write'}, depth {self.depth}"

    @property
    def unit(self) -> str:
        """Operations or bytes a second."""
        return "IOPS" if self.block == "4k" else "MB/s"


JOBS = (
    Job("r4k1", "randread", "4k", 1),
    Job("r4k32", "randread", "4k", 32),
    Job("w4k1", "randwrite", "4k", 1),
    Job("w4k32", "randwrite", "4k", 32),
    Job("r1m", "read", "1m", 1),
    Job("w1m", "write", "1m", 1),
)
METRICS = tuple(Metric(job.key, job.title, job.unit, True, goals=(Goal(1.2, (Q35.name,)),)) for job in JOBS)
SECONDS = 4
DEADLINE = 60.0 + 3 * SECONDS * len(JOBS)
END = b"bench: fio is done"


def _jobs() -> str:
    """fio's own configuration: the jobs one after the other."""
    lines = ["[global]", "filename=/dev/vda", "ioengine=io_uring", "direct=1", "time_based=1"]
    lines += ["fixedbufs=1", "registerfiles=1", "gtod_reduce=1"]
    lines += [f"runtime={SECONDS}", "thread=1", "norandommap=1", "allow_file_create=0", "randrepeat=0"]
    for job in JOBS:
        lines += [f"[{job.key}]", "stonewall", f"rw={job.kind}", f"bs={job.block}", f"iodepth={job.depth}"]
        if job.depth > 1:
            lines += [f"iodepth_batch_submit={job.depth // 2}", f"iodepth_low={job.depth // 2}"]
            lines += ["iodepth_batch_complete_min=1", f"iodepth_batch_complete_max={job.depth}"]
    return "\n".join(lines)


# Fields of fio's terse format 3: 3 the job's name, 7 and 8 read KiB/s and IOPS, 48 and 49 the same
# of writes; a line of five numbers costs less on a serial port than the report would.
RUN = f"""\
for i in $(seq 200); do [ -b /dev/vda ] && break; sleep 0.1; done
cat > /tmp/jobs <<END
{_jobs()}
END
fio --output-format=terse --terse-version=3 --output=/tmp/out /tmp/jobs 2>&1
awk -F';' '$1 == 3 {{ print "fio", $3, $7, $8, $48, $49 }}' /tmp/out
echo '{END.decode()}'
exec sleep 1000
"""


def _guest_facts() -> dict[str, object]:
    fio = shutil.which("fio")
    if fio is None:
        raise RunFailed("fio is not installed (apt-get install fio)")
    return {"modules": ("virtio_pci", "virtio_blk"), "files": (("/usr/bin/fio", fio),), "memory_mib": 640}


def prepare() -> None:
    """The guest's files, fio and its libraries among them."""
    from bench.guests import work

    work(NAME, RUN, **_guest_facts())


def measure(bench: Bench) -> None:
    """Both monitors in turns on one image."""
    with tempfile.NamedTemporaryFile(prefix="vmrun-bench-", dir="/dev/shm") as file:  # a tmpfs
        for _ in range(IMAGE_MIB):
            file.write(os.urandom(1 << 20))
        file.flush()
        _measure(bench, file.name)


def _measure(bench: Bench, image: str) -> None:
    guest = bench.guest(NAME, RUN, **_guest_facts())._replace(disk=image)
    contestants = [
        Contestant(machine.name, partial(_fio, bench, machine, guest))
        for machine in bench.machines(VMRUN, Q35)
    ]
    bench.interleave(contestants, Plan(4, 1))


def _fio(bench: Bench, machine: Machine, guest: Guest) -> Sample:
    return parse(bench.said(machine, guest, END, DEADLINE))


def parse(output: bytes) -> Sample:
    """The guest's lines: IOPS of small blocks, MB/s of large ones.  Raises RunFailed."""
    sample: Sample = {}
    for line in output.decode(errors="replace").splitlines():
        words = line.split()
        job = next((job for job in JOBS if len(words) == 6 and words[:2] == ["fio", job.key]), None)
        if job is None:
            continue
        kib, iops = (words[2], words[3]) if job.reads else (words[4], words[5])
        sample[job.key] = float(iops) if job.block == "4k" else float(kib) * 1024 / 1e6
    if lacking := [job.key for job in JOBS if not sample.get(job.key)]:
        raise RunFailed(f"fio has not told of {', '.join(lacking)}: {output[-600:]!r}")
    return sample
