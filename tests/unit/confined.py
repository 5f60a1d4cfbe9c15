"""A process that confines itself as a VM process does, and then tries one thing after the other.

Run as a program: prints a JSON object with the errno's name (or "done") for each try.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

from runner.host.native._native import lib

PARENT = os.getppid()
THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000  # VM FS FILES SIGHAND THREAD SYSVSEM
NEWUSER, NEWNS, CLEAR_SIGHAND = 0x10000000, 0x20000, 0x1_0000_0000
CALL = SimpleNamespace(
    ioctl=16, shmget=29, clone=56, fork=57, vfork=58, ptrace=101, setpriority=141, prctl=157, tkill=200,
    sched_setaffinity=203, tgkill=234, rt_sigqueueinfo=129, unshare=272, rt_tgsigqueueinfo=297,
    prlimit64=302, setns=308, process_vm_readv=310, memfd_create=319, bpf=321, execveat=322,
    userfaultfd=323, pidfd_send_signal=424, io_uring_setup=425, pidfd_open=434, clone3=435, openat2=437,
    process_madvise=440,
)  # fmt: skip
"""Numbers of asm/unistd_64.h, since the library's functions may take another call than one means."""
FIOSETOWN, SIOCSPGRP, FIOASYNC, TIOCSTI = 0x8901, 0x8902, 0x5452, 0x5412
F_SETOWN_EX = 15

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: int) -> None:
    """The bare system call, each argument in a whole register."""
    if libc.syscall(*(ctypes.c_long(one) for one in (number, *arguments, *[0] * (6 - len(arguments))))) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def child(*how: int) -> None:
    """A child that is one after all ends at once."""
    number = libc.syscall(*(ctypes.c_long(one) for one in how))
    if number == 0:
        os._exit(0)
    if number < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def work_in_threads() -> None:
    done = []
    threads = [threading.Thread(target=lambda: done.append(threading.get_native_id())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 20


def signal_a_thread_of_ours() -> None:
    seen = []
    signal.signal(signal.SIGRTMIN, lambda number, _frame: seen.append(number))
    signal.pthread_kill(threading.get_ident(), signal.SIGRTMIN)
    time.sleep(0.01)
    assert seen == [signal.SIGRTMIN]


def wait_for_an_eventfd() -> None:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    epoll, poll = select.epoll(), select.poll()
    epoll.register(fd, select.EPOLLIN)
    poll.register(fd, select.POLLIN)
    os.eventfd_write(fd, 1)
    assert epoll.poll(1)
    assert poll.poll(1)
    assert select.select([fd], [], [], 1)[0]
    os.close(fd)


def take_a_connection() -> None:
    """The listener is one that we had; it is not of use to connect to anything."""
    peer, _ = listener.accept()
    peer.setblocking(False)
    os.set_blocking(peer.fileno(), True)
    os.set_inheritable(peer.fileno(), False)
    other = socket.socket(fileno=os.dup(peer.fileno()))
    other.sendall(b"hello")
    assert client.recv(5) == b"hello"
    other.shutdown(socket.SHUT_WR)
    os.close(other.detach())
    assert fcntl.fcntl(peer, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def pass_a_descriptor() -> None:
    socket.send_fds(ours, [b"x"], [held])
    _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
    os.close(fds[0])


def use_a_file_that_is_open() -> None:
    os.pwrite(held, b"text", 0)
    os.fdatasync(held)
    os.writev(held, [b"ab", b"cd"])
    os.lseek(held, 0, os.SEEK_SET)
    assert os.pread(held, 4, 0) == b"abcd"


def use_memory() -> None:
    large = bytearray(64 << 20)
    large += bytes(64 << 20)
    del large
    assert len(os.getrandom(16)) == 16


def stay_on_these_cpus() -> None:
    os.sched_setaffinity(0, os.sched_getaffinity(0))


def a_raw_ioctl(request: int) -> Callable[[], None]:
    word = ctypes.c_int(os.getpid())
    return lambda: call(CALL.ioctl, ours.fileno(), request, ctypes.addressof(word))


NEEDED: dict[str, Callable[[], None]] = {
    "threads": work_in_threads,
    "a signal to a thread of ours": signal_a_thread_of_ours,
    "waiting": wait_for_an_eventfd,
    "a connection": take_a_connection,
    "a descriptor passed on": pass_a_descriptor,
    "an open file": use_a_file_that_is_open,
    "memory": use_memory,
    "its own CPUs": stay_on_these_cpus,
    "the clock": lambda: time.sleep(0.001),
}
FORBIDDEN: dict[str, Callable[[], None]] = {
    "fork": fork,
    "fork by number": lambda: child(CALL.fork),
    "vfork": lambda: child(CALL.vfork),
    "clone of a process": lambda: child(CALL.clone, signal.SIGCHLD),
    "clone of a process that shares memory": lambda: child(CALL.clone, 0x100 | signal.SIGCHLD, 0),
    "clone with a namespace": lambda: child(CALL.clone, NEWUSER | signal.SIGCHLD),
    "a thread with its own mounts": lambda: call(CALL.clone, THREAD & ~0x200 | NEWNS),
    "a thread with its own descriptors": lambda: call(CALL.clone, THREAD & ~0x400),
    "a thread that signals when it ends": lambda: call(CALL.clone, THREAD | signal.SIGKILL),
    "clone with bits above": lambda: child(CALL.clone, CLEAR_SIGHAND | signal.SIGCHLD),
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}) and None,
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "execveat": lambda: call(CALL.execveat, held, ctypes.addressof(empty), 0, 0, 0x1000),
    "kill": lambda: os.kill(PARENT, 0),
    "kill of the group": lambda: os.kill(0, 0),
    "tkill": lambda: call(CALL.tkill, PARENT, 0),
    "tgkill": lambda: call(CALL.tgkill, PARENT, PARENT, 0),
    "tgkill with bits above": lambda: call(CALL.tgkill, os.getpid() << 32 | PARENT, PARENT, 0),
    "sigqueue": lambda: call(CALL.rt_sigqueueinfo, PARENT, 0, ctypes.addressof(empty)),
    "sigqueue to a thread": lambda: call(CALL.rt_tgsigqueueinfo, PARENT, PARENT, 0, ctypes.addressof(empty)),
    "a signal by pidfd": lambda: call(CALL.pidfd_send_signal, parent_pidfd, 0),
    "a pidfd": lambda: call(CALL.pidfd_open, PARENT),
    "a descriptor's owner": lambda: fcntl.fcntl(ours, fcntl.F_SETOWN, PARENT) and None,
    "a descriptor's owner, a thread": lambda: fcntl.fcntl(ours, F_SETOWN_EX, bytes(8)) and None,
    "a descriptor's signal": lambda: fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGKILL) and None,
    "a socket's owner": a_raw_ioctl(FIOSETOWN),
    "a socket's group": a_raw_ioctl(SIOCSPGRP),
    "signals for input": a_raw_ioctl(FIOASYNC),
    "a typed character": a_raw_ioctl(TIOCSTI),
    "ptrace": lambda: call(CALL.ptrace, 16, PARENT),
    "another's memory": lambda: call(CALL.process_vm_readv, PARENT, 0, 0, 0, 0),
    "another's limits": lambda: call(CALL.prlimit64, PARENT, 7),
    "another's priority": lambda: call(CALL.setpriority, 0, PARENT, 0),
    "another's CPUs": lambda: call(CALL.sched_setaffinity, PARENT, 8, ctypes.addressof(empty)),
    "a life after the supervisor's": lambda: call(CALL.prctl, 1, 0),
    "open": lambda: os.close(os.open("/dev/null", os.O_RDONLY)),
    "creat": lambda: os.close(os.open("/tmp/nobody-makes-this", os.O_CREAT | os.O_WRONLY)),
    "stat": lambda: os.stat("/etc/passwd") and None,
    "unlink": lambda: os.unlink("/tmp/nobody-makes-this"),
    "chdir": lambda: os.chdir("/"),
    "memfd": lambda: call(CALL.memfd_create, ctypes.addressof(empty), 0),
    "pipe": lambda: os.pipe() and None,
    "shared memory": lambda: call(CALL.shmget, 1, 4096, 0o1600),
    "socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "internet socket": lambda: socket.socket(socket.AF_INET).close(),
    "socketpair": lambda: socket.socketpair() and None,
    "connect": lambda: unconnected.connect("/nowhere"),
    "bind": lambda: unconnected.bind("\0nowhere"),
    "listen": lambda: unconnected.listen(1),
    "unshare": lambda: call(CALL.unshare, NEWUSER),
    "setns": lambda: call(CALL.setns, held, 0),
    "setuid": lambda: os.setuid(os.getuid()),
    "bpf": lambda: call(CALL.bpf),
    "userfaultfd": lambda: call(CALL.userfaultfd),
    "a ring without limits": lambda: call(CALL.io_uring_setup, 1, ctypes.addressof(empty)),
}
NOT_THERE: dict[str, Callable[[], None]] = {
    "clone3": lambda: child(CALL.clone3, 0, 0),
    "openat2": lambda: call(CALL.openat2, -100, 0, 0, 0),
    "process_madvise": lambda: call(CALL.process_madvise, 0, 0, 0, 0, 0),
}

if __name__ == "__main__":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.getsockname())
    ours, theirs = socket.socketpair()
    unconnected = socket.socket(socket.AF_UNIX)
    held = os.memfd_create("held")
    parent_pidfd = os.pidfd_open(PARENT)
    empty = ctypes.create_string_buffer(256)
    bystander = threading.Event()
    threading.Thread(target=bystander.wait, daemon=True).start()
    confined = lib.vmrun_drop_privileges(), lib.vmrun_seccomp()
    told = {}
    for name, attempt in {**NEEDED, **FORBIDDEN, **NOT_THERE}.items():
        try:
            attempt()
            told[name] = "done"
        except OSError as error:
            told[name] = errno.errorcode.get(error.errno or 0, str(error))
        except Exception as error:
            told[name] = repr(error)
    json.dump({"confined": confined, "told": told}, sys.stdout)
