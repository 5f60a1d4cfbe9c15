/* virtio-console's output (virtio 1.2 §5.3.6): one thread a transmit queue, from the driver's buffer to the socket
 * that the supervisor reads.
 *
 * Linux' console writes 16 bytes at a time, and spins with interrupts off until they are taken.  So a buffer is
 * copied and given back at once; what has been collected goes out when it is much, when nothing more comes, or
 * when it has waited.  What the socket does not take stays in a ring of fixed size, where the driver may have to
 * wait a little for the reader (outlet.c). */

#define CONSOLE_MOST (1u << 20)       /* of one request; what is beyond is dropped */
#define CONSOLE_BATCH 32768u          /* each one wakes the supervisor, which costs more than copying it */
#define CONSOLE_LINGER_NS 10000000u

static void console_put(struct vmrun_console *c, const uint8_t *data, uint64_t size)
{
    if (!c->out.count)
        c->since = vmrun_now();
    outlet_put(&c->out, data, size);
}

static void console_take(struct vmrun_console *c, const struct vmrun_chain *chain)
{
    uint64_t left = CONSOLE_MOST;
    for (unsigned i = 0; i < chain->out; i++) {
        uint64_t part = chain->iov[i].iov_len < left ? chain->iov[i].iov_len : left;
        console_put(c, chain->iov[i].iov_base, part);
        left -= part;
        c->out.dropped += chain->iov[i].iov_len - part;
    }
}

/* Take what there is, at most a ring of it. */
static int console_drain(struct vmrun_console *c)
{
    int found, result = 0;
    for (found = 0; found < c->ring.size && (result = vmrun_ring_next(&c->ring, c->chain)) > 0; found++) {
        console_take(c, c->chain);
        vmrun_ring_push(&c->ring, c->chain->head, 0);
    }
    return result < 0 ? result : found;
}

static void console_interrupt(struct vmrun_console *c)
{
    uint64_t one = 1;
    if (vmrun_ring_wants(&c->ring, c->told) && write(c->call, &one, sizeof one) < 0) { /* full: pending */ }
    c->told = c->ring.used_idx;
}

/* What was said outside of the queue; 1 if there was something. */
static int console_hear(struct vmrun_console *c)
{
    uint32_t said = __atomic_load_n(&c->said, __ATOMIC_ACQUIRE), heard = c->heard;
    for (; c->heard != said; __atomic_store_n(&c->heard, c->heard + 1, __ATOMIC_RELEASE))
        console_put(c, &c->outside[c->heard % sizeof c->outside], 1);
    return heard != said;
}

static void console_sleep(struct vmrun_console *c)
{
    struct pollfd ends[3] = {{c->kick, POLLIN, 0}, {c->out.wake, POLLIN, 0}, {c->out.sink, POLLOUT, 0}};
    uint64_t word;
    poll(ends, c->out.count ? 3 : 2, -1);
    for (int i = 0; i < 2; i++)
        if (ends[i].revents && read(ends[i].fd, &word, sizeof word) < 0) { /* somebody was faster */ }
    c->out.retry_at = 0;
}

/* Serve until told to stop; 0, or the negative errno of the rule that the driver broke. */
static int vmrun_console_serve(struct vmrun_console *c)
{
    int result = 0;
    uint64_t idle_since = vmrun_now();
    c->told = c->ring.used_idx;
    vmrun_ring_listen(&c->ring, 0);
    while (!__atomic_load_n(&c->stopping, __ATOMIC_ACQUIRE) && (result = console_drain(c)) >= 0) {
        uint64_t now = vmrun_now();
        if (console_hear(c) | result)
            idle_since = now;
        if (c->out.count >= CONSOLE_BATCH || (c->out.count && now - c->since >= CONSOLE_LINGER_NS))
            outlet_send(&c->out);
        if ((uint16_t)(c->ring.used_idx - c->told) >= c->ring.size / 2)
            console_interrupt(c); /* a driver that waits for room */
        if (now - idle_since < c->spin_ns)
            continue;
        outlet_send(&c->out);
        console_interrupt(c);
        if (!vmrun_ring_listen(&c->ring, 1))
            console_sleep(c);
        vmrun_ring_listen(&c->ring, 0);
        idle_since = vmrun_now();
    }
    if (result >= 0)
        result = console_drain(c); /* the last words of a guest that has been halted */
    console_interrupt(c);
    console_hear(c);
    outlet_send(&c->out);
    return result < 0 ? result : 0;
}

/* A byte that comes by another way, from one other thread; 0: it is dropped. */
static int vmrun_console_say(struct vmrun_console *c, uint8_t byte)
{
    uint32_t said = c->said;
    if (said - __atomic_load_n(&c->heard, __ATOMIC_ACQUIRE) == sizeof c->outside)
        return 0;
    c->outside[said % sizeof c->outside] = byte;
    __atomic_store_n(&c->said, said + 1, __ATOMIC_RELEASE);
    return 1;
}

/* While nobody serves: send all, but wait for the reader no longer than this. */
static void vmrun_console_flush(struct vmrun_console *c, int patience_ms)
{
    uint64_t word;
    if (read(c->out.wake, &word, sizeof word) < 0) { /* nobody has called */ }
    console_hear(c);
    outlet_flush(&c->out, patience_ms);
}

static struct vmrun_console *vmrun_console_new(int sink, int wake)
{
    struct vmrun_console *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->chain = malloc(sizeof *c->chain);
    c->out.sink = sink;
    c->out.wake = wake;
    if (c->chain)
        return c;
    free(c);
    return NULL;
}

static void vmrun_console_free(struct vmrun_console *c)
{
    free(c->chain);
    free(c);
}
