/* virtio-blk's data path (virtio 1.2 §5.2.6): one thread a queue, from doorbell to interrupt without
 * Python.  Python has decided what the disk is; an errno that a request met is told to it by a counter.
 *
 * A raw image is served by io_uring.  An ephemeral one has an overlay of 64 KiB clusters, which is
 * served by plain calls: a cluster must be complete before the next request may look at it. */

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2 };
enum { BLK_UNMAP = 1 };
#define BLK_KICK UINT64_MAX
#define BLK_STOP (UINT64_MAX - 1)
#define BLK_CLUSTER 65536u
#define BLK_SEGMENTS 16

struct blk_header { uint32_t type, reserved; uint64_t sector; };
struct blk_segment { uint64_t sector; uint32_t count, flags; };

struct vmrun_blk_request {
    uint8_t *status;
    uint64_t offset, length, done;
    uint32_t type;
    uint16_t entries, first;                  /* of iov */
    uint16_t segments, segment;               /* of a discard */
    struct blk_segment ranges[BLK_SEGMENTS];
    uint8_t *bounce;                          /* what O_DIRECT is given instead of guest memory, or NULL */
    struct iovec piece;                       /* of the request, in ``bounce`` */
    struct iovec iov[VMRUN_RING_MOST];
};

static uint64_t blk_bytes(const struct iovec *iov, unsigned count)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++)
        sum += iov[i].iov_len;
    return sum;
}

/* Copy up to ``size`` bytes out of the vector and cut them off its front. */
static uint32_t blk_take(struct iovec *iov, unsigned count, void *to, uint32_t size)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        uint32_t part = iov[i].iov_len < size - done ? iov[i].iov_len : size - done;
        memcpy((uint8_t *)to + done, iov[i].iov_base, part);
        iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
        iov[i].iov_len -= part;
        done += part;
    }
    return done;
}

/* O_DIRECT (open(2), NOTES): whether a part of the request begins or ends where it may not. */
static int blk_unaligned(const struct vmrun_blk *b, const struct vmrun_blk_request *r)
{
    for (unsigned i = 0; b->align && i < r->entries; i++)
        if (((uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len) & (b->align - 1))
            return 1;
    return 0;
}

/* Copy between a buffer and what comes next of the guest's. */
static void blk_copy(const struct vmrun_blk_request *r, uint8_t *buffer, uint64_t size)
{
    for (unsigned i = r->first; size; i++) {
        uint64_t part = r->iov[i].iov_len < size ? r->iov[i].iov_len : size;
        if (r->type == BLK_IN)
            memcpy(r->iov[i].iov_base, buffer, part);
        else
            memcpy(buffer, r->iov[i].iov_base, part);
        buffer += part;
        size -= part;
    }
}

static void blk_complete(struct vmrun_blk *b, uint16_t head, uint8_t status)
{
    struct vmrun_blk_request *r = &b->requests[head];
    free(r->bounce);
    r->bounce = NULL;
    *r->status = status;
    uint64_t written = 1 + (status == BLK_OK && (r->type == BLK_IN || r->type == BLK_GET_ID) ? r->length : 0);
    vmrun_ring_push(&b->ring, head, (uint32_t)written);
}

static void blk_failed(struct vmrun_blk *b, uint16_t head, int error)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->type == BLK_FLUSH && !b->flush_failed)
        b->flush_failed = error; /* nobody can tell what was lost: it stays failed */
    b->last_error = error;
    __atomic_add_fetch(&b->errors, 1, __ATOMIC_RELEASE);
    uint64_t one = 1;
    if (write(b->notice, &one, sizeof one) < 0) { /* the counter is full: it has been told */ }
    blk_complete(b, head, error == EOPNOTSUPP ? BLK_UNSUPP : BLK_IOERR);
}

/* Cut what has been moved off the front of a request's vector, for the rest of a short transfer. */
static void blk_advance(struct vmrun_blk_request *r, uint64_t moved)
{
    r->done += moved;
    while (moved && r->first < r->entries) {
        struct iovec *v = &r->iov[r->first];
        uint64_t part = v->iov_len < moved ? v->iov_len : moved;
        v->iov_base = (uint8_t *)v->iov_base + part;
        v->iov_len -= part;
        moved -= part;
        if (!v->iov_len)
            r->first++;
    }
}

/* ---- overlay: plain calls */

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

static int blk_zero_overlay(struct vmrun_blk *b, uint64_t size, uint64_t offset)
{
    static uint8_t zeroes[BLK_CLUSTER];
    while (size) {
        uint64_t part = size < sizeof zeroes ? size : sizeof zeroes;
        int error = blk_overlay_part(b, 1, zeroes, part, offset);
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

/* ---- raw: io_uring */

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
    } else if (r->type == BLK_FLUSH) {
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
    } else if (++r->segment < r->segments) {
        blk_submit(b, head);
    } else {
        blk_complete(b, head, BLK_OK);
    }
}

/* ---- requests */

static int blk_inside(const struct vmrun_blk *b, uint64_t sector, uint64_t length)
{
    uint64_t sectors = b->capacity / 512;
    return length % 512 == 0 && sector <= sectors && length / 512 <= sectors - sector;
}

/* The ranges of a discard or write-zeroes; 0, or the status that refuses it. */
static int blk_ranges(struct vmrun_blk *b, struct vmrun_blk_request *r, struct iovec *out, unsigned count)
{
    uint64_t size = blk_bytes(out, count);
    if (size == 0 || size % sizeof(struct blk_segment) || size / sizeof(struct blk_segment) > BLK_SEGMENTS)
        return BLK_IOERR;
    r->segments = size / sizeof(struct blk_segment);
    blk_take(out, count, r->ranges, size);
    for (unsigned i = 0; i < r->segments; i++) {
        uint32_t allowed = r->type == BLK_WRITE_ZEROES ? BLK_UNMAP : 0;
        if (r->ranges[i].flags & ~allowed)
            return BLK_UNSUPP;
        if (!blk_inside(b, r->ranges[i].sector, r->ranges[i].count * 512ull))
            return BLK_IOERR;
    }
    return b->readonly || !b->discards ? BLK_UNSUPP : BLK_OK;
}

static int blk_identify(struct vmrun_blk *b, struct vmrun_blk_request *r)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < r->entries && done < sizeof b->serial; i++) {
        uint32_t part = r->iov[i].iov_len;
        if (part > sizeof b->serial - done)
            part = sizeof b->serial - done;
        memcpy(r->iov[i].iov_base, b->serial + done, part);
        done += part;
    }
    r->length = done;
    return BLK_OK;
}

/* Read the request behind a chain.  -EPROTO breaks the device; otherwise 1: start it, 0: answered. */
static int blk_parse(struct vmrun_blk *b, struct vmrun_chain *chain)
{
    struct vmrun_blk_request *r = &b->requests[chain->head];
    struct blk_header header;
    struct iovec *out = chain->iov, *in = chain->iov + chain->out;
    if (blk_take(out, chain->out, &header, sizeof header) != sizeof header || !chain->in)
        return -EPROTO;
    struct iovec *last = &in[chain->in - 1]; /* the status is the last writable byte */
    r->status = (uint8_t *)last->iov_base + --last->iov_len;
    r->type = header.type;
    r->done = r->first = r->segment = r->segments = 0;
    int writes = r->type == BLK_OUT;
    r->entries = writes ? chain->out : chain->in;
    memcpy(r->iov, writes ? out : in, r->entries * sizeof *r->iov);
    r->length = blk_bytes(r->iov, r->entries);
    r->offset = header.sector * 512;
    int status = BLK_OK;
    switch (r->type) {
    case BLK_IN:
    case BLK_OUT:
        if (!blk_inside(b, header.sector, r->length) || (writes && b->readonly))
            status = BLK_IOERR;
        else if (r->length)
            return 1;
        break;
    case BLK_FLUSH:
        if (!b->flush_failed)
            return 1;
        status = BLK_IOERR;
        break;
    case BLK_GET_ID:
        status = blk_identify(b, r);
        break;
    case BLK_DISCARD:
    case BLK_WRITE_ZEROES:
        status = blk_ranges(b, r, out, chain->out);
        if (status == BLK_OK)
            return 1;
        break;
    default:
        status = BLK_UNSUPP;
    }
    blk_complete(b, chain->head, status);
    return 0;
}

static void blk_start(struct vmrun_blk *b, uint16_t head)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if ((r->type == BLK_IN || r->type == BLK_OUT) && blk_unaligned(b, r)) {
        r->bounce = aligned_alloc(4096, BLK_CLUSTER);
        if (!r->bounce) {
            blk_failed(b, head, ENOMEM);
            return;
        }
    }
    blk_submit(b, head);
}

static int blk_drain(struct vmrun_blk *b)
{
    int found = 0, result;
    while ((result = vmrun_ring_next(&b->ring, b->chain)) > 0) {
        found = 1;
        int start = blk_parse(b, b->chain);
        if (start < 0)
            return start;
        if (start && b->overlay >= 0)
            blk_run_overlay(b, b->chain->head);
        else if (start)
            blk_start(b, b->chain->head);
    }
    return result < 0 ? result : found;
}

static void blk_arm(struct vmrun_blk *b, int fd, uint64_t user)
{
    vmrun_uring_sqe(&b->uring, IORING_OP_POLL_ADD, fd, user)->poll32_events = POLLIN;
}

static void blk_swallow(int eventfd)
{
    uint64_t word;
    if (read(eventfd, &word, sizeof word) < 0) { /* nothing in it: somebody else was faster */ }
}

/* Take completions; 1 if something other than nothing came. */
static int blk_reap(struct vmrun_blk *b)
{
    uint64_t user;
    int32_t result;
    int found = 0;
    while (vmrun_uring_reap(&b->uring, &user, &result)) {
        found = 1;
        if (user == BLK_STOP) {
            blk_swallow(b->stop);
            b->stopping = 1;
            b->watching_stop = 0;
        } else if (user == BLK_KICK) {
            blk_swallow(b->kick);
            b->armed = 0;
        } else
            blk_result(b, (uint16_t)user, result);
    }
    return found;
}

/* Nothing of this service stays in the ring: the next one would take it for its own end. */
static void blk_finish(struct vmrun_blk *b)
{
    uint64_t one = 1;
    if (b->watching_stop && write(b->stop, &one, sizeof one) < 0) { /* full: it is readable */ }
    if (b->armed && write(b->kick, &one, sizeof one) < 0) { /* the same */ }
    while ((b->pending || b->watching_stop || b->armed) && vmrun_uring_enter(&b->uring, 1) >= 0)
        blk_reap(b); /* guest memory is in use until then */
}

static void blk_interrupt(struct vmrun_blk *b, uint16_t *before)
{
    uint64_t one = 1;
    if (vmrun_ring_wants(&b->ring, *before) && write(b->call, &one, sizeof one) < 0) { /* full: pending */ }
    *before = b->ring.used_idx;
}

static uint64_t blk_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Serve until told to stop; 0, or the negative errno of the rule that the driver broke. */
static int vmrun_blk_serve(struct vmrun_blk *b)
{
    uint16_t before = b->ring.used_idx;
    uint64_t idle_since = blk_now();
    int result = 0;
    b->stopping = b->armed = 0;
    blk_arm(b, b->stop, BLK_STOP);
    b->watching_stop = 1;
    vmrun_ring_listen(&b->ring, 0);
    while (!b->stopping && (result = blk_drain(b)) >= 0) {
        int busy = result;
        if (b->uring.unsubmitted && (result = vmrun_uring_enter(&b->uring, 0)) < 0)
            break;
        busy |= blk_reap(b);
        blk_interrupt(b, &before);
        if (busy) {
            idle_since = blk_now();
            continue;
        }
        if (blk_now() - idle_since < b->spin_ns)
            continue;
        /* Nothing for a while: ask for the doorbell, look once more, and sleep. */
        if (vmrun_ring_listen(&b->ring, 1)) {
            vmrun_ring_listen(&b->ring, 0);
            continue;
        }
        if (!b->armed) {
            blk_arm(b, b->kick, BLK_KICK);
            b->armed = 1;
        }
        if ((result = vmrun_uring_enter(&b->uring, 1)) < 0)
            break;
        vmrun_ring_listen(&b->ring, 0);
        blk_reap(b);
        blk_interrupt(b, &before);
        idle_since = blk_now();
    }
    blk_finish(b);
    blk_interrupt(b, &before);
    return result < 0 ? result : 0;
}

static struct vmrun_blk *vmrun_blk_new(unsigned entries)
{
    struct vmrun_blk *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->requests = calloc(entries, sizeof *b->requests);
    b->chain = malloc(sizeof *b->chain);
    b->scratch = aligned_alloc(4096, BLK_CLUSTER); /* an image that is read past the page cache */
    b->overlay = -1;
    int error = vmrun_uring_open(&b->uring, 2 * entries);
    if (!b->requests || !b->chain || !b->scratch || error < 0) {
        free(b->requests);
        free(b->chain);
        free(b->scratch);
        free(b);
        errno = error < 0 ? -error : ENOMEM;
        return NULL;
    }
    return b;
}

static void vmrun_blk_free(struct vmrun_blk *b)
{
    vmrun_uring_close(&b->uring);
    free(b->requests);
    free(b->chain);
    free(b->scratch);
    free(b);
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
