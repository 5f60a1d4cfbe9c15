/* What a VM process does to itself before it runs somebody else's code. */

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

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

/* System calls that a guest escaping into this process would want and that the process
 * itself never makes once it runs: new programs, new files, new sockets, other processes. */
static const int vmrun_denied[] = {
    SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_ptrace, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_open, SYS_openat, SYS_openat2, SYS_creat, SYS_open_by_handle_at,
    SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_mount, SYS_umount2, SYS_pivot_root,
    SYS_chroot, SYS_unshare, SYS_setns, SYS_clone3, SYS_init_module, SYS_finit_module,
    SYS_delete_module, SYS_kexec_load, SYS_kexec_file_load, SYS_reboot, SYS_bpf,
    SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_unlink, SYS_unlinkat, SYS_rename, SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat,
    SYS_symlink, SYS_symlinkat, SYS_mknod, SYS_mknodat, SYS_chmod, SYS_fchmodat, SYS_chown,
    SYS_fchownat, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_truncate, SYS_pidfd_open,
    SYS_pidfd_getfd, SYS_setuid, SYS_setgid, SYS_setresuid, SYS_setresgid, SYS_iopl, SYS_ioperm,
    SYS_io_uring_setup,
};

#define VMRUN_DENIED (sizeof vmrun_denied / sizeof vmrun_denied[0])

static int vmrun_seccomp(void)
{
    struct sock_filter filter[6 + 2 * VMRUN_DENIED + 1];
    unsigned int n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    /* The x32 numbers reach the same calls by another name. */
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    for (unsigned int i = 0; i < VMRUN_DENIED; i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, vmrun_denied[i], 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(
            BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (vmrun_denied[i] == SYS_clone3 ? ENOSYS : EPERM));
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = n, .filter = filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        return -errno;
    return 0;
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
