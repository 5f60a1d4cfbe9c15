"""What a guest's last words mean, and what to try: a table, most telling first.

A pattern is matched against each of the last lines.  The words are for somebody who
sees this for the first time.  The messages are Linux' own (``init/do_mounts.c``,
``init/main.c``, ``init/initramfs.c``, ``mm/oom_kill.c``, ``kernel/watchdog.c``,
``arch/x86/boot/compressed/``), initramfs-tools', dracut's and systemd's.
"""

from __future__ import annotations

from runner.typed import NamedTuple


class Symptom(NamedTuple):
    """``pattern`` is a regular expression; ``{0}`` of the words is its first group."""

    name: str
    pattern: str
    words: str
    hint: str


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "initramfs-unpacking",
        r"Initramfs unpacking failed: (.*)",
        "the kernel could not unpack the initramfs ({0})",
        "is the file complete, can this kernel decompress its format, is there memory for its content?",
    ),
    Symptom(
        "no-root",
        r"VFS: (?:Unable to mount root fs on|Cannot open root device) \"?([^\"\s]+)",
        "the kernel found no root file system on {0}",
        "give an initramfs, or a disk with `root=` in cmdline; a stock kernel has its disk drivers "
        "as modules, which only an initramfs can load",
    ),
    Symptom(
        "no-init",
        r"(?:No working init found|Requested init (\S+) failed)",
        "the kernel found no program to start as init",
        "the root needs an executable /init or /sbin/init of this architecture, and its interpreter",
    ),
    Symptom(
        "init-not-executable",
        r"(?:Failed to execute|Starting init:) (/\S+) .*\(?error -?(\d+)",
        "the kernel could not start {0}",
        "error 8: not of this architecture; 2: it or its interpreter is missing; 13: not executable",
    ),
    Symptom(
        "init-ended",
        r"Attempted to kill init! exitcode=(0x[0-9a-f]+)",
        "the guest's first program ended ({0})",
        "init must not end: let it power the machine off as its last act",
    ),
    Symptom(
        "out-of-memory",
        r"(?:Out of memory[:.]|System is deadlocked on memory|Out of memory and no killable)(.*)",
        "the guest ran out of memory",
        "give it more `memory`",
    ),
    Symptom(
        "decompression",
        r"(.*(?:compressed data is corrupt|invalid compressed|Decoding failed|"
        r"Out of memory while allocating).*)",
        "the kernel could not decompress itself ({0})",
        "is the kernel's file complete? fetch it again, or give it more `memory`",
    ),
    Symptom(
        "timer",
        r"(IO-APIC \+ timer doesn't work|timer doesn't work through).*",
        "the kernel's check of its timer interrupt failed",
        "try `no_timer_check` in cmdline, and report it: a machine should not need it",
    ),
    Symptom(
        "dropped-to-initramfs",
        r"(?:ALERT!\s+(\S+) does not exist|^\(initramfs\)|Entering emergency mode|dracut.*Could not boot)",
        "the initramfs did not find the root device and opened its emergency shell",
        "is `root=` right, is the disk in the definition, and does the initramfs hold its driver?",
    ),
    Symptom(
        "emergency-mode",
        r"(You are in emergency mode|Give root password for maintenance|Press Enter for maintenance)",
        "systemd stopped in its emergency mode",
        "look in the guest at `journalctl -xb`; often a mount of /etc/fstab that this machine does not have",
    ),
    Symptom(
        "lockup",
        r"(watchdog: BUG: soft lockup.*|rcu: INFO: rcu_\w+ .*stall.*|hard LOCKUP.*)",
        "a CPU of the guest did not get on ({0})",
        "a host that is too busy shows this too: fewer `cpus`, or a longer timeout",
    ),
    Symptom(
        "bug",
        r"(BUG: .*|Oops: .*|general protection fault.*|Unable to handle .*|kernel BUG at .*)",
        "the guest kernel ran into a fault of its own ({0})",
        "the trace above it names the driver",
    ),
    Symptom(
        "login",
        r"(\S+ login:)\s*$",
        "the guest waits at its login prompt",
        "it has booted; if that was the aim, end it from inside or with `vmrun stop`",
    ),
)


def find(lines: tuple[str, ...] | list[str]) -> tuple[Symptom, str] | None:
    """The first row of the table that any line shows, and its words filled in."""
    import re

    for symptom in SYMPTOMS:
        pattern = re.compile(symptom.pattern)
        for line in reversed(lines):
            match = pattern.search(line)
            if match:
                part = next((group for group in match.groups() if group), "it")
                return symptom, symptom.words.format(part.strip()[:120])
    return None
