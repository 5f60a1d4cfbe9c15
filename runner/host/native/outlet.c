/* Bytes on their way to a supervisor: a ring of fixed size before a socket that does not block.
 *
 * A reader who got no CPU for a moment loses nothing: who writes waits for it, ``patience_ms`` in all until it has
 * caught up.  For one who does not read nobody waits any more, and the oldest bytes go (device-bugs 16): the last
 * words of a guest are worth more than the first.  Its owner sees to it that one thread is here at a time. */

#define OUTLET_RETRY_NS 1000000u      /* between two tries of a socket that is full */

static void outlet_forget(struct vmrun_outlet *o, uint32_t count)
{
    o->start = (o->start + count) % VMRUN_OUTLET;
    o->count -= count;
}

/* As much as the socket takes now. */
static void outlet_send(struct vmrun_outlet *o)
{
    while (o->count && vmrun_now() >= o->retry_at) {
        uint32_t first = VMRUN_OUTLET - o->start < o->count ? VMRUN_OUTLET - o->start : o->count;
        struct iovec parts[2] = {{o->bytes + o->start, first}, {o->bytes, o->count - first}};
        ssize_t sent = writev(o->sink, parts, 2);
        if (sent >= 0)
            outlet_forget(o, sent);
        else if (errno == EAGAIN)
            o->retry_at = vmrun_now() + OUTLET_RETRY_NS;
        else if (errno != EINTR)
            outlet_forget(o, o->count); /* the supervisor has gone: nobody listens, and we end with it */
    }
}

/* Until the socket takes something, or patience is at its end, which it soon is when somebody wants us. */
static void outlet_wait(struct vmrun_outlet *o)
{
    struct pollfd ends[2] = {{o->sink, POLLOUT, 0}, {o->wake, POLLIN, 0}};
    uint64_t began = vmrun_now();
    poll(ends, 2, o->patience_left);
    int waited = (vmrun_now() - began) / 1000000 + 1;
    o->patience_left = waited < o->patience_left ? o->patience_left - waited : 0;
    o->retry_at = 0;
}

/* For ``size`` bytes, or for a whole ring of them. */
static void outlet_make_room(struct vmrun_outlet *o, uint64_t size)
{
    outlet_send(o);
    if (o->count == VMRUN_OUTLET && o->patience_left) {
        outlet_wait(o);
        outlet_send(o);
    }
    if (o->count == VMRUN_OUTLET) {
        uint32_t oldest = size < VMRUN_OUTLET ? size : VMRUN_OUTLET;
        outlet_forget(o, oldest);
        o->dropped += oldest;
    }
}

static void outlet_put(struct vmrun_outlet *o, const uint8_t *data, uint64_t size)
{
    if (!o->count)
        o->patience_left = o->patience_ms; /* the reader has caught up */
    while (size) {
        if (o->count == VMRUN_OUTLET)
            outlet_make_room(o, size);
        uint32_t end = (o->start + o->count) % VMRUN_OUTLET;
        uint32_t part = VMRUN_OUTLET - (end < o->start ? o->count : end); /* up to what waits, or to the end */
        if (part > size)
            part = size;
        memcpy(o->bytes + end, data, part);
        o->count += part;
        data += part;
        size -= part;
    }
}

/* Send all, but wait for the reader no longer than this. */
static void outlet_flush(struct vmrun_outlet *o, int patience_ms)
{
    o->patience_left = patience_ms;
    o->retry_at = 0;
    outlet_send(o);
    while (o->count && o->patience_left) {
        outlet_wait(o);
        outlet_send(o);
    }
}
