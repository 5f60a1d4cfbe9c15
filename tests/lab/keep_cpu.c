/* Loaded into every program of the lab: a thread that runs a virtual CPU stays on the CPU of the lab where it began.
 *
 * When such a thread moves, QEMU's emulation of nested virtualization may mix up what is the guest's and what is
 * the lab's; the guest then hangs or triple-faults, whoever its monitor is (docs/decisions/0049).  CPUs are dealt in
 * turns over all machines.  A thread that was given an affinity by somebody keeps that. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TURN "/dev/shm/lab-turn" /* a number, shared by all */

static unsigned own_turn, *turn = &own_turn;
static long online = 1;
static __thread int decided;

/* Before a program confines itself. */
static void share_turn(void)
{
    online = sysconf(_SC_NPROCESSORS_ONLN);
    int fd = open(TURN, O_RDWR | O_CLOEXEC);
    void *shared = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *turn, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (shared != MAP_FAILED)
        turn = shared;
}

static void keep_cpu(void)
{
    cpu_set_t may;
    if (online < 2 || sched_getaffinity(0, sizeof may, &may) < 0 || CPU_COUNT(&may) < online)
        return;
    unsigned cpu = __atomic_fetch_add(turn, 1, __ATOMIC_RELAXED) % online;
    CPU_ZERO(&may);
    CPU_SET(cpu, &may);
    sched_setaffinity(0, sizeof may, &may);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int before = errno;
    if (request == KVM_CREATE_VCPU && turn == &own_turn)
        share_turn();
    if (request == KVM_RUN && !decided) {
        decided = 1;
        keep_cpu();
    }
    errno = before;
    return syscall(SYS_ioctl, fd, request, argument);
}
