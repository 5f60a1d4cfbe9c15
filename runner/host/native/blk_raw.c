/* A raw image, served by io_uring, but for buffered writes, which are made at once. */

#define BLK_NS_A_BYTE 10u            /* 100 MB/s: memory is faster, everywhere */
#define BLK_SLOW_PAUSE_NS 100000000u

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

static void blk_result(struct vmrun_blk *b, uint16_t head, int32_t result)
{
    struct vmrun_blk_request *r = &b->requests[head];
    b->pending--;
    if (result == -EINTR || result == -EAGAIN) {
        blk_submit(b, head);
    } else if (result < 0) {
        blk_failed(b, head, -result);
    } else if (r->type == BLK_IN || r->type == BLK_OUT) {
        if (r->bounce) {
            result &= ~(int32_t)(b->align - 1); /* a rest that is no sector is asked for again */
            if (r->type == BLK_IN)
                blk_copy(r, r->bounce, result);
        }
        blk_advance(r, result);
        if (r->done == r->length)
            blk_complete(b, head, BLK_OK);
        else if (result == 0)
            blk_failed(b, head, EIO); /* the image has become shorter than it was */
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

static void blk_start(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (blk_write_here(b, head))
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
