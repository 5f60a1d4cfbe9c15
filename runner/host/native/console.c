/* virtio-console's output (virtio 1.2 §5.3.6): one thread a transmit queue, from the driver's buffer to the socket
 * that the supervisor reads.
 *
 * Linux' console writes 16 bytes at a time, and spins with interrupts off until they are taken.  So a buffer is
 * copied and given back at once; what has been collected goes out when it is much, when nothing more comes, or
 * when it has waited.  What the socket does not take stays in a ring of fixed size.  When that is full the driver
 * waits, ``patience_ms`` in all until the reader has caught up; from then on the oldest bytes are dropped
 * (device-bugs 16). */

#define CONSOLE_RING 65536u
#define CONSOLE_MOST (1u << 20)       /* of one request; what is beyond is dropped */
#define CONSOLE_BATCH 32768u          /* each one wakes the supervisor, which costs more than copying it */
#define CONSOLE_LINGER_NS 10000000u
#define CONSOLE_RETRY_NS 1000000u     /* between two tries of a socket that is full */

static void console_forget(struct vmrun_console *c, uint32_t count)
{
    c->start = (c->start + count) % CONSOLE_RING;
    c->count -= count;
}

/* As much as the socket takes now. */
static void console_send(struct vmrun_console *c)
{
    while (c->count && vmrun_now() >= c->retry_at) {
        uint32_t first = CONSOLE_RING - c->start < c->count ? CONSOLE_RING - c->start : c->count;
        struct iovec parts[2] = {{c->output + c->start, first}, {c->output, c->count - first}};
        ssize_t sent = writev(c->sink, parts, 2);
        if (sent >= 0)
            console_forget(c, sent);
        else if (errno == EAGAIN)
            c->retry_at = vmrun_now() + CONSOLE_RETRY_NS;
        else if (errno != EINTR)
            console_forget(c, c->count); /* the supervisor has gone: nobody listens, and we end with it */
    }
}

/* Until the socket takes something or patience is at its end, which it soon is when somebody wants us. */
static void console_wait(struct vmrun_console *c)
{
    struct pollfd ends[2] = {{c->sink, POLLOUT, 0}, {c->wake, POLLIN, 0}};
    uint64_t began = vmrun_now();
    poll(ends, 2, c->patience_left);
    int waited = (vmrun_now() - began) / 1000000 + 1;
    c->patience_left = waited < c->patience_left ? c->patience_left - waited : 0;
    c->retry_at = 0;
}

/* For ``size`` bytes, or for a whole ring of them. */
static void console_make_room(struct vmrun_console *c, uint64_t size)
{
    console_send(c);
    if (c->count == CONSOLE_RING && c->patience_left) {
        console_wait(c);
        console_send(c);
    }
    if (c->count == CONSOLE_RING) {
        uint32_t oldest = size < CONSOLE_RING ? size : CONSOLE_RING;
        console_forget(c, oldest);
        c->dropped += oldest;
    }
}

static void console_put(struct vmrun_console *c, const uint8_t *data, uint64_t size)
{
    if (!c->count) {
        c->since = vmrun_now();
        c->patience_left = c->patience_ms; /* the reader has caught up */
    }
    while (size) {
        if (c->count == CONSOLE_RING)
            console_make_room(c, size);
        uint32_t end = (c->start + c->count) % CONSOLE_RING;
        uint32_t part = CONSOLE_RING - (end < c->start ? c->count : end); /* up to what waits, or to the end */
        if (part > size)
            part = size;
        memcpy(c->output + end, data, part);
        c->count += part;
        data += part;
        size -= part;
    }
}

static void console_take(struct vmrun_console *c, const struct vmrun_chain *chain)
{
    uint64_t left = CONSOLE_MOST;
    for (unsigned i = 0; i < chain->out; i++) {
        uint64_t part = chain->iov[i].iov_len < left ? chain->iov[i].iov_len : left;
        console_put(c, chain->iov[i].iov_base, part);
        left -= part;
        c->dropped += chain->iov[i].iov_len - part;
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
    struct pollfd ends[3] = {{c->kick, POLLIN, 0}, {c->wake, POLLIN, 0}, {c->sink, POLLOUT, 0}};
    uint64_t word;
    poll(ends, c->count ? 3 : 2, -1);
    for (int i = 0; i < 2; i++)
        if (ends[i].revents && read(ends[i].fd, &word, sizeof word) < 0) { /* somebody was faster */ }
    c->retry_at = 0;
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
        if (c->count >= CONSOLE_BATCH || (c->count && now - c->since >= CONSOLE_LINGER_NS))
            console_send(c);
        if ((uint16_t)(c->ring.used_idx - c->told) >= c->ring.size / 2)
            console_interrupt(c); /* a driver that waits for room */
        if (now - idle_since < c->spin_ns)
            continue;
        console_send(c);
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
    console_send(c);
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
    if (read(c->wake, &word, sizeof word) < 0) { /* nobody has called */ }
    console_hear(c);
    c->patience_left = patience_ms;
    c->retry_at = 0;
    console_send(c);
    while (c->count && c->patience_left) {
        console_wait(c);
        console_send(c);
    }
}

static struct vmrun_console *vmrun_console_new(int sink, int wake)
{
    struct vmrun_console *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->chain = malloc(sizeof *c->chain);
    c->output = malloc(CONSOLE_RING);
    c->sink = sink;
    c->wake = wake;
    if (c->chain && c->output)
        return c;
    free(c->chain);
    free(c->output);
    free(c);
    return NULL;
}

static void vmrun_console_free(struct vmrun_console *c)
{
    free(c->chain);
    free(c->output);
    free(c);
}
