/* What a process does to itself before it becomes a helper program that confines itself little or not. */

#include <linux/landlock.h>
#include <linux/mount.h>
#include <sys/stat.h>

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

#define VMRUN_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE)
#define VMRUN_WRITE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE)

/* The folder becomes read-only, with all that is mounted below it, for this process and its children. */
static int vmrun_readonly_tree(const char *path)
{
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
    if (unshare(CLONE_NEWNS) < 0)
        return -errno;
    if (syscall(SYS_mount, "none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -errno;
    int tree = syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0)
        return -errno;
    int result = 0;
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) < 0
        || syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        result = -errno;
    close(tree);
    return result;
}

static int vmrun_allow(int ruleset, int fd, uint64_t access)
{
    struct stat state;
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    if (fstat(fd, &state) == 0 && !S_ISDIR(state.st_mode))
        rule.allowed_access &= ~(uint64_t)LANDLOCK_ACCESS_FS_READ_DIR;
    return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

/* The rights that this kernel's Landlock knows (landlock(7)), 0 without Landlock. */
static uint64_t vmrun_landlock_rights(void)
{
    int version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1)
        return 0;
    uint64_t rights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
    if (version >= 2)
        rights |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3)
        rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
    return rights;
}

/* Files are opened below the folders for reading, and the given ones for writing; no others.
 * Descriptors that are open already are not touched.  1: this kernel has no Landlock. */
static int vmrun_open_only(const int *folders, uint32_t folder_count, const int *files, uint32_t file_count)
{
    uint64_t rights = vmrun_landlock_rights();
    if (!rights)
        return 1;
    struct landlock_ruleset_attr attributes = {.handled_access_fs = rights};
    int ruleset = syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (ruleset < 0)
        return -errno;
    int result = 0;
    for (uint32_t i = 0; i < folder_count && !result; i++)
        result = vmrun_allow(ruleset, folders[i], VMRUN_READ);
    for (uint32_t i = 0; i < file_count && !result; i++)
        result = vmrun_allow(ruleset, files[i], VMRUN_WRITE | (rights & LANDLOCK_ACCESS_FS_TRUNCATE));
    if (!result && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        result = -errno;
    close(ruleset);
    return result;
}

/* No new privileges, no capability but these, and as root no network: the last of it only where it may be. */
static int vmrun_weaken(uint64_t kept_capabilities)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (!(kept_capabilities >> capability & 1))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    return 0;
}
