/* Guest memory: reserved at an alignment, so that huge pages can back all of it. */

static void *vmrun_reserve(uint64_t size, int fd, uint64_t offset, uint64_t alignment, int shared)
{
    /* Take more than is needed, keep the aligned part: mmap has no alignment of its own,
     * and a guest page can only be huge where host and guest addresses agree modulo 2 MiB. */
    uint8_t *whole = mmap(NULL, size + alignment, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)(((uintptr_t)whole + alignment - 1) & ~(alignment - 1));
    /* Huge pages are reserved here, where their lack is an errno; a page that is not there when a
     * guest touches it is a SIGBUS.  Other shared memory is not accounted for by a mapping at all. */
    int flags = MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE);
    if (fd < 0)
        flags |= MAP_ANONYMOUS;
    if (mmap(start, size, PROT_READ | PROT_WRITE, flags, fd, offset) == MAP_FAILED) {
        int saved = errno;
        munmap(whole, size + alignment);
        errno = saved;
        return NULL;
    }
    if (start > whole)
        munmap(whole, start - whole);
    uint8_t *end = whole + size + alignment;
    if (end > start + size)
        munmap(start + size, end - (start + size));
    return start;
}

static int vmrun_unmap(void *address, uint64_t size)
{
    return munmap(address, size) < 0 ? -errno : 0;
}

static int vmrun_advise(void *address, uint64_t size, int advice)
{
    return madvise(address, size, advice) < 0 ? -errno : 0;
}

static int64_t vmrun_pread(int fd, void *target, uint64_t size, uint64_t offset)
{
    uint64_t done = 0;
    while (done < size) {
        ssize_t n = pread(fd, (uint8_t *)target + done, size - done, offset + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += n;
    }
    return done;
}

static int vmrun_memfd(const char *name, uint64_t size, uint64_t huge_page)
{
    unsigned int flags = MFD_CLOEXEC;
    if (huge_page)
        flags |= MFD_HUGETLB | ((unsigned)__builtin_ctzll(huge_page) << MFD_HUGE_SHIFT);
    int fd = memfd_create(name, flags);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, size) < 0) {
        int saved = errno;
        close(fd);
        return -saved;
    }
    return fd;
}
