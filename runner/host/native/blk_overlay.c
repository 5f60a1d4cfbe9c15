/* An ephemeral disk: the image, and an overlay of 64 KiB clusters that has what was written.  Plain calls,
 * since a cluster must be complete before the next request may look at it. */

#define BLK_OVERLAY_BATCH 8 /* requests that are answered before the driver hears of it */

static int blk_all(int out, int fd, uint8_t *at, uint64_t size, uint64_t offset)
{
    while (size) {
        ssize_t n = out ? pwrite(fd, at, size, offset) : pread(fd, at, size, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0) {
            if (out)
                return EIO;
            memset(at, 0, size); /* behind the end of a base whose size is no multiple of a cluster */
            return 0;
        }
        at += n;
        size -= n;
        offset += n;
    }
    return 0;
}

static int blk_present(const struct vmrun_blk *b, uint64_t cluster)
{
    return b->present[cluster >> 3] >> (cluster & 7) & 1;
}

static int blk_copy_in(struct vmrun_blk *b, uint64_t cluster)
{
    uint64_t start = cluster * BLK_CLUSTER;
    uint64_t size = b->capacity - start < BLK_CLUSTER ? b->capacity - start : BLK_CLUSTER;
    int error = blk_all(0, b->fd, b->scratch, size, start);
    if (!error)
        error = blk_all(1, b->overlay, b->scratch, size, start);
    return error;
}

/* A part of a cluster out of the image, past the page cache in whole sectors. */
static int blk_read_base(struct vmrun_blk *b, uint8_t *at, uint64_t size, uint64_t offset)
{
    if (!b->align)
        return blk_all(0, b->fd, at, size, offset);
    uint64_t from = offset & ~((uint64_t)b->align - 1);
    uint64_t to = (offset + size + b->align - 1) & ~((uint64_t)b->align - 1);
    int error = blk_all(0, b->fd, b->scratch, to - from, from);
    if (!error)
        memcpy(at, b->scratch + (offset - from), size);
    return error;
}

static int blk_overlay_part(struct vmrun_blk *b, int out, uint8_t *at, uint64_t size, uint64_t offset)
{
    while (size) {
        uint64_t cluster = offset / BLK_CLUSTER;
        uint64_t part = BLK_CLUSTER - offset % BLK_CLUSTER;
        if (part > size)
            part = size;
        int error;
        pthread_mutex_lock(b->overlay_lock);
        if (!out && !blk_present(b, cluster)) {
            error = blk_read_base(b, at, part, offset);
        } else if (!out) {
            error = blk_all(0, b->overlay, at, part, offset);
        } else {
            error = 0;
            if (!blk_present(b, cluster) && part < BLK_CLUSTER)
                error = blk_copy_in(b, cluster);
            if (!error)
                error = blk_all(1, b->overlay, at, part, offset);
            if (!error)
                b->present[cluster >> 3] |= 1u << (cluster & 7);
        }
        pthread_mutex_unlock(b->overlay_lock);
        if (error)
            return error;
        at += part;
        size -= part;
        offset += part;
    }
    return 0;
}

/* Whole clusters, in one call: a hole in the overlay reads as zeroes.  The overlay's length is the disk's. */
static int blk_zero_clusters(struct vmrun_blk *b, uint64_t size, uint64_t offset)
{
    pthread_mutex_lock(b->overlay_lock);
    int error;
    do
        error = fallocate(b->overlay, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size) < 0 ? errno : 0;
    while (error == EINTR);
    for (uint64_t at = offset; at < offset + size && !error; at += BLK_CLUSTER)
        b->present[at / BLK_CLUSTER >> 3] |= 1u << (at / BLK_CLUSTER & 7);
    pthread_mutex_unlock(b->overlay_lock);
    return error;
}

static int blk_zero_overlay(struct vmrun_blk *b, uint64_t size, uint64_t offset)
{
    static uint8_t zeroes[BLK_CLUSTER];
    while (size) {
        uint64_t part = BLK_CLUSTER - offset % BLK_CLUSTER, whole = size - size % BLK_CLUSTER;
        if (part > size)
            part = size;
        int error = 0;
        if (part == BLK_CLUSTER && !blk_zero_clusters(b, whole, offset))
            part = whole;
        else /* less than a cluster, or a file system without holes */
            error = blk_overlay_part(b, 1, zeroes, part, offset);
        if (error)
            return error;
        size -= part;
        offset += part;
    }
    return 0;
}

static void blk_run_overlay(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    int error = 0;
    uint64_t offset = r->offset;
    if (r->type == BLK_IN || r->type == BLK_OUT)
        for (unsigned i = 0; i < r->entries && !error; i++) {
            error = blk_overlay_part(b, r->type == BLK_OUT, r->iov[i].iov_base, r->iov[i].iov_len, offset);
            offset += r->iov[i].iov_len;
        }
    else if (r->type == BLK_WRITE_ZEROES)
        for (unsigned i = 0; i < r->segments && !error; i++)
            error = blk_zero_overlay(b, r->ranges[i].count * 512ull, r->ranges[i].sector * 512);
    /* A flush of what is thrown away anyway, and a discard, have nothing to do. */
    if (error)
        blk_failed(b, head, error);
    else
        blk_complete(b, head, BLK_OK);
}

/* One bitmap and one lock for all queues of an ephemeral disk. */
static struct vmrun_overlay *vmrun_overlay_new(uint64_t capacity)
{
    struct vmrun_overlay *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    uint64_t clusters = (capacity + BLK_CLUSTER - 1) / BLK_CLUSTER;
    o->present = calloc(1, clusters / 8 + 1);
    if (!o->present) {
        free(o);
        return NULL;
    }
    pthread_mutex_init(&o->lock, NULL);
    return o;
}

static void vmrun_blk_use_overlay(struct vmrun_blk *b, int fd, struct vmrun_overlay *o)
{
    b->overlay = fd;
    b->present = o->present;
    b->overlay_lock = &o->lock;
}
