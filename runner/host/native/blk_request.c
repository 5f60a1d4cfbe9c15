/* A request of virtio-blk (virtio 1.2 §5.2.6) on its way: its bytes, and its answer. */

enum { BLK_IN = 0, BLK_OUT = 1, BLK_FLUSH = 4, BLK_GET_ID = 8, BLK_DISCARD = 11, BLK_WRITE_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2 };
enum { BLK_UNMAP = 1 };
#define BLK_KICK UINT64_MAX
#define BLK_STOP (UINT64_MAX - 1)
#define BLK_HALF (1ull << 16)          /* beside a request's number: the part of it that a worker reads */
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
    uint16_t half;                            /* from this entry on a worker reads; 0: none does */
    enum { HALF_READ, HALF_UNDER_WAY, HALF_NOT_READ } half_is;
    uint16_t all;                             /* entries and bytes with that half */
    uint64_t whole;
    int error;                                /* of the other half, while this one is under way */
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
        vmrun_ring_copy((uint8_t *)to + done, iov[i].iov_base, part);
        iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
        iov[i].iov_len -= part;
        done += part;
    }
    return done;
}

/* Copy the entries that have bytes: the header's or the status's own is empty by now. */
static uint16_t blk_filled(struct iovec *to, const struct iovec *from, unsigned count)
{
    uint16_t filled = 0;
    for (unsigned i = 0; i < count; i++)
        if (from[i].iov_len)
            to[filled++] = from[i];
    return filled;
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

static int blk_flush_failed(const struct vmrun_blk *b)
{
    return __atomic_load_n(b->flush_failed, __ATOMIC_ACQUIRE);
}

static void blk_failed(struct vmrun_blk *b, uint16_t head, int error)
{
    struct vmrun_blk_request *r = &b->requests[head];
    if (r->type == BLK_FLUSH) /* nobody can tell what was lost: it stays failed */
        __atomic_store_n(b->flush_failed, error, __ATOMIC_RELEASE);
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
