/* What a VM process does to itself before it runs somebody else's code. */

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>

#ifndef CLONE_DETACHED
#define CLONE_DETACHED 0x00400000 /* of Linux 2.5; musl still sets it */
#endif

static int vmrun_die_with_parent(int signal, int parent_pid)
{
    if (prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0) < 0)
        return -errno;
    /* The parent may have died before the line above took effect. */
    return getppid() == parent_pid ? 0 : -ESRCH;
}

static int vmrun_drop_privileges(void)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0); /* EPERM without root: nothing to drop */
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct none[2];
    memset(none, 0, sizeof none);
    return syscall(SYS_capset, &header, none) < 0 ? -errno : 0;
}

/* What the process does once the guest runs, with descriptors that it has already; nothing else is
 * let through, so a guest that has taken it over finds no file, socket, program or other process. */
static const int vmrun_allowed[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
    SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_close, SYS_dup, SYS_fsync, SYS_fdatasync, SYS_fallocate,
    SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait,
    SYS_epoll_pwait, SYS_eventfd2, SYS_io_uring_enter,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_accept, SYS_accept4, SYS_shutdown,
    SYS_getsockname, SYS_getsockopt, /* Python asks these two of a descriptor that becomes a socket */
    SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_msync, SYS_brk,
    SYS_futex, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_sched_getaffinity, SYS_exit, SYS_exit_group,
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall,
    SYS_getpid, SYS_gettid, SYS_getrandom, SYS_nanosleep, SYS_clock_nanosleep,
    SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_time, /* where the vDSO has no clock */
};

/* A thread of this process as glibc and musl make one, and nothing that would be a process. */
#define VMRUN_THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
#define VMRUN_THREAD_MAY \
    (CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_DETACHED)

#define VMRUN_ALL 0xffffffffu
#define VMRUN_TYPE 0xff00u       /* of an ioctl: whose it is (linux/ioctl.h) */
#define VMRUN_TUN_NUMBERS 0xffc0u /* 'T' is the terminals' too, with numbers below 0xc0 */

/* Calls that depend on an argument: allowed when the masked lower half of it is this value.  Signals
 * reach other processes also by way of a descriptor's owner (F_SETOWN, FIOSETOWN, F_SETSIG). */
struct vmrun_check { int call; unsigned argument; uint32_t mask, value; };

static const struct vmrun_check vmrun_checks[] = {
    {SYS_ioctl, 1, VMRUN_TYPE, KVMIO << 8}, /* the first, since KVM_RUN is what is called most */
    {SYS_ioctl, 1, VMRUN_TYPE, VHOST_VIRTIO << 8},
    {SYS_ioctl, 1, VMRUN_TYPE, ';' << 8}, /* VFIO */
    {SYS_ioctl, 1, VMRUN_TUN_NUMBERS, 'T' << 8 | 0xc0},
    {SYS_ioctl, 1, VMRUN_ALL, FIONBIO},
    {SYS_ioctl, 1, VMRUN_ALL, FIOCLEX},
    {SYS_ioctl, 1, VMRUN_ALL, FIONCLEX},
    {SYS_fcntl, 1, VMRUN_ALL, F_GETFD},
    {SYS_fcntl, 1, VMRUN_ALL, F_SETFD},
    {SYS_fcntl, 1, VMRUN_ALL, F_GETFL},
    {SYS_fcntl, 1, VMRUN_ALL, F_SETFL},
    {SYS_fcntl, 1, VMRUN_ALL, F_DUPFD_CLOEXEC},
    {SYS_sched_setaffinity, 0, VMRUN_ALL, 0}, /* of the thread itself */
    {SYS_clone, 0, VMRUN_ALL & ~VMRUN_THREAD_MAY, VMRUN_THREAD},
};

#define VMRUN_COUNT(table) (sizeof(table) / sizeof(table)[0])
#define VMRUN_LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define VMRUN_UNLESS(value, skipped) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skipped)
#define VMRUN_RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define VMRUN_PUT(...) (filter[n++] = (struct sock_filter)__VA_ARGS__)

static unsigned vmrun_put_check(struct sock_filter *filter, unsigned n, const struct vmrun_check *c)
{
    VMRUN_PUT(VMRUN_LOAD(nr));
    VMRUN_PUT(VMRUN_UNLESS(c->call, 4));
    VMRUN_PUT(VMRUN_LOAD(args[c->argument]));
    VMRUN_PUT(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, c->mask));
    VMRUN_PUT(VMRUN_UNLESS(c->value, 1));
    VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_ALLOW));
    return n;
}

static unsigned vmrun_filter(struct sock_filter *filter)
{
    const struct vmrun_check own_thread = {SYS_tgkill, 0, VMRUN_ALL, (uint32_t)getpid()};
    unsigned n = 0;
    VMRUN_PUT(VMRUN_LOAD(arch));
    VMRUN_PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
    VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_KILL_PROCESS));
    VMRUN_PUT(VMRUN_LOAD(nr));
    /* The x32 numbers reach the same calls by another name. */
    VMRUN_PUT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));
    VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_KILL_PROCESS));
    /* The kernel looks like one from before clone3, whose flags lie in memory: the C library then
     * does with the calls that it had before. */
    VMRUN_PUT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, SYS_clone3, 0, 1));
    VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_ERRNO | ENOSYS));
    for (unsigned i = 0; i < VMRUN_COUNT(vmrun_checks); i++)
        n = vmrun_put_check(filter, n, &vmrun_checks[i]);
    n = vmrun_put_check(filter, n, &own_thread);
    VMRUN_PUT(VMRUN_LOAD(nr));
    for (unsigned i = 0; i < VMRUN_COUNT(vmrun_allowed); i++) {
        VMRUN_PUT(VMRUN_UNLESS((uint32_t)vmrun_allowed[i], 1));
        VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_ALLOW));
    }
    VMRUN_PUT(VMRUN_RETURN(SECCOMP_RET_ERRNO | EPERM));
    return n;
}

static int vmrun_seccomp(void)
{
    struct sock_filter filter[10 + 6 * (VMRUN_COUNT(vmrun_checks) + 1) + 2 * VMRUN_COUNT(vmrun_allowed)];
    struct sock_fprog program = {.len = vmrun_filter(filter), .filter = filter};
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    if (result > 0) /* the id of a thread that could not be given the filter */
        return -EBUSY;
    return result < 0 ? -errno : 0;
}

static int vmrun_close_all_but(const int *keep, uint32_t count)
{
    /* keep is sorted: close the gaps between its members, and everything after the last. */
    unsigned int next = 0;
    for (uint32_t i = 0; i < count; i++) {
        if ((unsigned)keep[i] > next)
            syscall(SYS_close_range, next, (unsigned)keep[i] - 1, 0);
        next = (unsigned)keep[i] + 1;
    }
    return syscall(SYS_close_range, next, ~0u, 0) < 0 ? -errno : 0;
}
