/* A file under random reads, writes, truncations and maps, compared with a copy in memory after each.
 *   fsx FILE SEED OPERATIONS
 * Says what differed and ends with 1, or leaves FILE as the copy is and ends with 0. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 1 << 18, LONGEST = 1 << 15, PAGE = 4096 };

static unsigned char good[MOST], buffer[MOST];
static size_t size; /* of the file, as it has to be */
static const char *path;
static int fd;
static unsigned long step;

static void fail(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    printf("operation %lu: ", step);
    vprintf(format, words);
    puts("");
    exit(1);
}

static void must(int done, const char *what)
{
    if (!done)
        fail("%s: %s", what, strerror(errno));
}

static size_t any(size_t below) { return below ? (size_t)random() % below : 0; }

/* Bytes that are different each time, and come fast where a CPU is emulated. */
static void scatter(unsigned char *to, size_t length)
{
    static uint64_t state = 88172645463325252u; /* xorshift64, Marsaglia 2003 */
    for (size_t at = 0; at < length; at += sizeof state) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(to + at, &state, length - at < sizeof state ? length - at : sizeof state);
    }
}

static void compare(const unsigned char *got, size_t offset, size_t length, const char *how)
{
    for (size_t i = memcmp(got, good + offset, length) ? 0 : length; i < length; i++)
        if (got[i] != good[offset + i])
            fail("%s: byte %zu is %02x and should be %02x", how, offset + i, got[i], good[offset + i]);
}

static void fill(size_t offset, size_t length)
{
    if (offset > size)
        memset(good + size, 0, offset - size); /* what a write leaves out is a hole */
    scatter(good + offset, length);
    if (offset + length > size)
        size = offset + length;
}

static void do_read(void)
{
    size_t offset = any(size + LONGEST) % MOST, length = any(LONGEST);
    size_t due = offset >= size ? 0 : size - offset < length ? size - offset : length;
    ssize_t got = pread(fd, buffer, length, (off_t)offset);
    if (got != (ssize_t)due)
        fail("read of %zu at %zu gave %zd of %zu", length, offset, got, due);
    compare(buffer, offset, due, "read");
}

static void do_write(void)
{
    size_t offset = any(MOST - LONGEST), length = 1 + any(LONGEST);
    fill(offset, length);
    must(pwrite(fd, good + offset, length, (off_t)offset) == (ssize_t)length, "write");
}

static void do_append(void)
{
    size_t length = 1 + any(PAGE);
    if (size + length > MOST)
        return;
    size_t end = size;
    fill(end, length);
    int other = open(path, O_WRONLY | O_APPEND);
    must(other >= 0 && write(other, good + end, length) == (ssize_t)length && !close(other), "append");
}

static void do_truncate(void)
{
    size_t to = any(MOST);
    if (to > size)
        memset(good + size, 0, to - size);
    size = to;
    must(!ftruncate(fd, (off_t)to), "ftruncate");
}

static void do_map(int writing)
{
    if (!size)
        return;
    size_t offset = any(size) & ~(size_t)(PAGE - 1);
    size_t length = 1 + any(size - offset < LONGEST ? size - offset : LONGEST);
    int access = writing ? PROT_READ | PROT_WRITE : PROT_READ;
    unsigned char *map = mmap(NULL, length, access, MAP_SHARED, fd, (off_t)offset);
    must(map != MAP_FAILED, "mmap");
    compare(map, offset, length, "map");
    if (writing) {
        fill(offset, length);
        memcpy(map, good + offset, length);
        must(!msync(map, length, MS_SYNC), "msync");
    }
    must(!munmap(map, length), "munmap");
}

static void reopen(void)
{
    must(!fsync(fd), "fsync");
    must(!close(fd), "close");
    fd = open(path, O_RDWR);
    must(fd >= 0, "open");
}

static void check_all(void)
{
    struct stat found;
    must(!fstat(fd, &found), "fstat");
    if (found.st_size != (off_t)size)
        fail("the file has %lld bytes and should have %zu", (long long)found.st_size, size);
    must(pread(fd, buffer, size, 0) == (ssize_t)size, "read of all");
    compare(buffer, 0, size, "all");
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    path = words[1];
    srandom((unsigned)atoi(words[2]));
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(fd >= 0, "create");
    for (unsigned long operations = strtoul(words[3], NULL, 10); step < operations; step++)
        switch (any(16)) {
        case 0: case 1: case 2: case 3: do_read(); break;
        case 4: case 5: case 6: case 7: do_write(); break;
        case 8: do_append(); break;
        case 9: case 10: do_truncate(); break;
        case 11: case 12: do_map(0); break;
        case 13: case 14: do_map(1); break;
        default: reopen(); check_all();
        }
    reopen();
    check_all();
    printf("%lu operations, %zu bytes at the end\n", step, size);
    return 0;
}
