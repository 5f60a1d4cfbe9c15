/* A raw image, served by io_uring, but for what a call of our own does at less cost: buffered writes, and a
 * read that comes alone and finds its bytes in memory.  A large one of those is made by two CPUs. */

#define BLK_NS_A_BYTE 10u            /* 100 MB/s: memory is faster, everywhere */
#define BLK_SLOW_PAUSE_NS 100000000u
#define BLK_LARGE (512u << 10)       /* of which half is to take longer to copy than a worker to wake */

static void blk_submit(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    struct io_uring_sqe *sqe;
    if (r->type == BLK_IN || r->type == BLK_OUT) {
        sqe = vmrun_uring_sqe(&b->uring, r->type == BLK_IN ? IORING_OP_READV : IORING_OP_WRITEV, b->fd, head);
        sqe->addr = (uintptr_t)(r->iov + r->first);
        sqe->len = r->entries - r->first;
        if (r->bounce) {
            uint64_t left = r->length - r->done;
            r->piece = (struct iovec){r->bounce, left < BLK_CLUSTER ? left : BLK_CLUSTER};
            if (r->type == BLK_OUT)
                blk_copy(r, r->bounce, r->piece.iov_len);
            sqe->addr = (uintptr_t)&r->piece;
            sqe->len = 1;
        }
        sqe->off = r->offset + r->done;
        if (r->type == BLK_OUT && b->write_through)
            sqe->rw_flags = RWF_DSYNC;
    } else if (r->segment == r->segments) { /* a flush, or the end of a discard that is to be safe */
        sqe = vmrun_uring_sqe(&b->uring, IORING_OP_FSYNC, b->fd, head);
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
    } else {
        struct blk_segment *s = &r->ranges[r->segment];
        int keep = r->type == BLK_WRITE_ZEROES && !(s->flags & BLK_UNMAP);
        sqe = vmrun_uring_sqe(&b->uring, IORING_OP_FALLOCATE, b->fd, head);
        sqe->off = s->sector * 512;
        sqe->addr = s->count * 512ull;
        sqe->len = FALLOC_FL_KEEP_SIZE | (keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
    }
    b->pending++;
}

/* All has been moved that is not a worker's. */
static void blk_moved(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->half && r->half_is == HALF_UNDER_WAY)
        return;
    int again = r->half && r->half_is == HALF_NOT_READ;
    if (r->half) {
        r->half = 0;
        r->entries = r->all;
        r->length = r->whole;
    }
    if (again)
        blk_submit(b, head); /* whatever kept the worker from it, io_uring meets it now, or not */
    else
        blk_complete(b, head, BLK_OK);
}

/* A failure ends a request only when nobody moves anything for it any more. */
static void blk_gave_up(struct vmrun_blk *b, uint16_t head, int error)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->half && r->half_is == HALF_UNDER_WAY)
        r->error = error;
    else
        blk_failed(b, head, error);
}

/* What the worker says of its half. */
static void blk_half_result(struct vmrun_blk *b, uint16_t head, int32_t result)
{
    struct vmrun_blk_request *r = &b->requests[head];
    b->pending--;
    r->half_is = result >= 0 && (uint64_t)result == r->whole - r->length ? HALF_READ : HALF_NOT_READ;
    if (r->error)
        blk_failed(b, head, r->error);
    else if (r->done == r->length)
        blk_moved(b, head);
}

static void blk_result(struct vmrun_blk *b, uint16_t head, int32_t result)
{
    struct vmrun_blk_request *r = &b->requests[head];
    b->pending--;
    if (result == -EINTR || result == -EAGAIN) {
        blk_submit(b, head);
    } else if (result < 0) {
        blk_gave_up(b, head, -result);
    } else if (r->type == BLK_IN || r->type == BLK_OUT) {
        if (r->bounce) {
            result &= ~(int32_t)(b->align - 1); /* a rest that is no sector is asked for again */
            if (r->type == BLK_IN)
                blk_copy(r, r->bounce, result);
        }
        blk_advance(r, result);
        if (r->done == r->length)
            blk_moved(b, head);
        else if (result == 0)
            blk_gave_up(b, head, EIO); /* the image has become shorter than it was */
        else
            blk_submit(b, head);
    } else if (++r->segment < r->segments || (r->segment == r->segments && b->write_through)) {
        blk_submit(b, head);
    } else { /* a flush beside one that failed has lost the same */
        blk_complete(b, head, r->type == BLK_FLUSH && blk_flush_failed(b) ? BLK_IOERR : BLK_OK);
    }
}

/* A buffered write, here and now: 1 when it is done; 0 when the rest of it, or what went wrong, is io_uring's.
 *
 * Where a file system does not promise that such a write never waits (FMODE_BUF_WASYNC; tmpfs and ext4 do
 * not), io_uring hands each one to a worker thread, which costs several times what the copy does.  When the page
 * cache is slow to take one (too much of it is dirty), the workers have the next: a read need not stand behind it. */
static int blk_write_here(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->type != BLK_OUT || b->align || b->write_through)
        return 0;
    uint64_t began = vmrun_now();
    if (began < b->slow_until)
        return 0;
    ssize_t written = pwritev(b->fd, r->iov, r->entries, r->offset);
    uint64_t ended = vmrun_now();
    if (ended - began > b->slow_ns + BLK_NS_A_BYTE * r->length)
        b->slow_until = ended + BLK_SLOW_PAUSE_NS;
    if (written > 0)
        blk_advance(r, written);
    if (r->done < r->length)
        return 0;
    blk_complete(b, head, BLK_OK);
    return 1;
}

/* Give the second half of a large read to a worker of io_uring, which begins at once.  Its answer counts only if it is
 * that all has been read; else it is read again, and what is wrong with it is met then. */
static void blk_split(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    uint64_t first = r->length / 2 & ~(uint64_t)4095, left = first;
    uint16_t half = 0;
    while (left >= r->iov[half].iov_len)
        left -= r->iov[half++].iov_len;
    if (left) { /* in the middle of an entry, which becomes two */
        struct iovec *cut = r->iov + half++;
        memmove(cut + 1, cut, (r->entries++ - (half - 1)) * sizeof *cut);
        cut[0].iov_len = left;
        cut[1].iov_base = (uint8_t *)cut[1].iov_base + left;
        cut[1].iov_len -= left;
    }
    r->all = r->entries;
    r->whole = r->length;
    r->half = r->entries = half;
    r->half_is = HALF_UNDER_WAY;
    r->length = first;
    struct io_uring_sqe *sqe = vmrun_uring_sqe(&b->uring, IORING_OP_READV, b->fd, head | BLK_HALF);
    sqe->addr = (uintptr_t)(r->iov + half);
    sqe->len = r->all - half;
    sqe->off = r->offset + first;
    sqe->flags = IOSQE_ASYNC;
    b->pending++;
    vmrun_uring_enter(&b->uring, 0); /* or the next call submits it */
}

/* A buffered read with nothing beside it: 1 when it is done; 0 when the rest of it, or what went wrong, is io_uring's.
 *
 * Only what is in the page cache is read (RWF_NOWAIT); the files of a file system in memory have all of it there,
 * but not every kernel says so.  Several reads at once are cheaper with one call for all of them. */
static int blk_read_here(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->type != BLK_IN || b->align || b->reads_may_wait || b->pending || vmrun_ring_waiting(&b->ring))
        return 0;
    if (r->length >= BLK_LARGE && r->entries < VMRUN_RING_MOST)
        blk_split(b, head);
    ssize_t got = preadv2(b->fd, r->iov, r->entries, r->offset, b->in_memory ? 0 : RWF_NOWAIT);
    if (got < 0 && errno == EOPNOTSUPP)
        b->reads_may_wait = 1; /* the file system cannot tell */
    if (got > 0)
        blk_advance(r, got);
    if (r->done < r->length)
        return 0;
    blk_moved(b, head);
    return 1;
}

/* Whether all that a file has is in memory.  (Asked before the process confines itself.) */
static int vmrun_blk_in_memory(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}

static void blk_start(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (blk_write_here(b, head) || blk_read_here(b, head))
        return;
    if ((r->type == BLK_IN || r->type == BLK_OUT) && blk_unaligned(b, r)) {
        r->bounce = aligned_alloc(4096, BLK_CLUSTER);
        if (!r->bounce) {
            blk_failed(b, head, ENOMEM);
            return;
        }
    }
    blk_submit(b, head);
}
