/* virtio-blk's data path (virtio 1.2 §5.2.6): one thread a queue, from doorbell to interrupt without
 * Python.  Python has decided what the disk is; an errno that a request met is told to it by a counter.
 * The two kinds of image are blk_raw.c and blk_overlay.c. */

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
    r->done = r->first = r->segment = r->segments = r->half = r->error = 0;
    int writes = r->type == BLK_OUT;
    r->entries = blk_filled(r->iov, writes ? out : in, writes ? chain->out : chain->in);
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
        if (!blk_flush_failed(b))
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

/* Start what there is, at most a ring of it: a driver that never ceases must not keep us from interrupts and the end.
 * What an overlay is asked for is not started but done, so of that a few are enough. */
static int blk_drain(struct vmrun_blk *b)
{
    int found, most = b->overlay >= 0 ? BLK_OVERLAY_BATCH : b->ring.size, result = 0;
    for (found = 0; found < most && (result = vmrun_ring_next(&b->ring, b->chain)) > 0; found++) {
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
        } else if (user & BLK_HALF)
            blk_half_result(b, (uint16_t)user, result);
        else
            blk_result(b, (uint16_t)user, result);
    }
    return found;
}

/* Until there is something to do.  With nothing under way one plain call does, and io_uring need not look at the doorbell
 * for us. */
static int blk_sleep(struct vmrun_blk *b)
{
    if (!b->pending && !b->armed) {
        struct pollfd ends[2] = {{b->kick, POLLIN, 0}, {b->stop, POLLIN, 0}};
        poll(ends, 2, -1);
        if (ends[0].revents)
            blk_swallow(b->kick);
        return ends[1].revents ? vmrun_uring_enter(&b->uring, 1) : 0; /* it has the same to tell */
    }
    if (!b->armed) {
        blk_arm(b, b->kick, BLK_KICK);
        b->armed = 1;
    }
    return vmrun_uring_enter(&b->uring, 1);
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

/* Serve until told to stop; 0, or the negative errno of the rule that the driver broke. */
static int vmrun_blk_serve(struct vmrun_blk *b)
{
    uint16_t before = b->ring.used_idx;
    int result = 0;
    vmrun_spin_open(&b->spin, vmrun_spin_most(), vmrun_now());
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
            b->spin.since = vmrun_now();
            continue;
        }
        if (!b->pending && vmrun_spin_more(&b->spin, vmrun_now()))
            continue; /* but what is under way may need this CPU */
        /* Nothing for a while: ask for the doorbell, look once more, and sleep. */
        if (vmrun_ring_listen(&b->ring, 1)) {
            vmrun_ring_listen(&b->ring, 0);
            continue;
        }
        int alone = !b->pending;
        if ((result = blk_sleep(b)) < 0)
            break;
        if (alone) /* else we looked for no longer than what is under way let us */
            vmrun_spin_woken(&b->spin, vmrun_now());
        vmrun_ring_listen(&b->ring, 0);
        blk_reap(b);
        blk_interrupt(b, &before);
        b->spin.since = vmrun_now();
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
    b->ring.most = entries;
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
