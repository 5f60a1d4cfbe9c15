/* Loaded into every program of the lab: a thread that runs a virtual CPU does so on the last CPU of the lab.
 *
 * On the first one, which the lab's devices interrupt, guests hang or triple-fault, or the lab's kernel does:
 * a fault of the emulated machine, of which docs/decisions/0049 says what is known.  A thread that was given an affinity by
 * somebody keeps that. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long online = 1;
static __thread int decided;

static void keep_cpu(void)
{
    cpu_set_t may;
    if (online < 2 || sched_getaffinity(0, sizeof may, &may) < 0 || CPU_COUNT(&may) < online)
        return;
    CPU_ZERO(&may);
    CPU_SET(online - 1, &may);
    sched_setaffinity(0, sizeof may, &may);
}

/* A QEMU in its sandbox may not choose later: all of it goes there now. */
__attribute__((constructor)) static void look_at_command(void)
{
    char words[4096];
    if (strncmp(program_invocation_short_name, "qemu-system-", 12))
        return;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, words, sizeof words);
    close(fd);
    if (length <= 0 || !memmem(words, length, "\0-sandbox", 10))
        return;
    online = sysconf(_SC_NPROCESSORS_ONLN);
    keep_cpu();
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int before = errno;
    if (request == KVM_CREATE_VCPU) /* before a program confines itself */
        online = sysconf(_SC_NPROCESSORS_ONLN);
    if (request == KVM_RUN && !decided) {
        decided = 1;
        keep_cpu();
    }
    errno = before;
    return syscall(SYS_ioctl, fd, request, argument);
}
