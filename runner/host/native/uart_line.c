/* The serial port's other end: output on its way to the sink, and the bytes that KVM has put by.  For uart.c,
 * which holds the lock. */

#define UART_BATCH 4096u              /* output that goes out without waiting for the next look */

static void uart_ring(int event)
{
    uint64_t one = 1;
    if (write(event, &one, sizeof one) < 0) { /* full: pending */ }
}

/* Ask the device thread to look after a while; it comes by itself until there is nothing to look after. */
static void uart_plan(struct vmrun_uart *u)
{
    if (!u->planned) {
        u->planned = 1;
        uart_ring(u->attention);
    }
}

static void uart_forget(struct vmrun_uart *u, uint32_t count)
{
    u->output_start = (u->output_start + count) % VMRUN_UART_OUTPUT;
    u->output_count -= count;
}

/* As much as the sink takes now. */
static void uart_send(struct vmrun_uart *u)
{
    u->stalled = 0;
    if (u->output_count)
        u->sent_at = vmrun_now();
    while (u->output_count && !u->stalled) {
        uint32_t start = u->output_start, count = u->output_count;
        uint32_t first = VMRUN_UART_OUTPUT - start < count ? VMRUN_UART_OUTPUT - start : count;
        struct iovec parts[2] = {{u->output + start, first}, {u->output, count - first}};
        ssize_t sent = writev(u->sink, parts, 2);
        if (sent >= 0)
            uart_forget(u, sent);
        else if (errno == EAGAIN)
            u->stalled = 1;
        else if (errno != EINTR)
            uart_forget(u, count); /* the supervisor has gone: nobody listens, and we end with it */
    }
    if (u->stalled)
        uart_plan(u);
}

/* The ring is full.  A reader who got no CPU for a moment loses nothing: the driver waits for it, ``patience_ms``
 * in all until it has caught up.  For one who does not read the driver waits no more, and the oldest byte goes: the
 * last words of a guest are worth more than the first. */
static void uart_make_room(struct vmrun_uart *u)
{
    if (u->patience_left) {
        struct pollfd sink = {u->sink, POLLOUT, 0};
        uint64_t began = vmrun_now();
        poll(&sink, 1, u->patience_left);
        int waited = (vmrun_now() - began) / 1000000 + 1;
        u->patience_left = waited < u->patience_left ? u->patience_left - waited : 0;
        uart_send(u);
    }
    if (u->output_count == VMRUN_UART_OUTPUT) {
        uart_forget(u, 1);
        u->dropped++;
    }
}

static void uart_put(struct vmrun_uart *u, uint8_t byte)
{
    if (!u->output_count)
        u->patience_left = u->patience_ms; /* the reader has caught up */
    if (u->output_count == VMRUN_UART_OUTPUT)
        uart_make_room(u);
    u->output[(u->output_start + u->output_count++) % VMRUN_UART_OUTPUT] = byte;
}

/* Output has come, ``line``: with the end of one.  Whoever reads wakes up for it: a line goes out at once, but of
 * many in a row the first one only.  A slow reader is tried again by the timer, and not by every byte. */
static void uart_offer(struct vmrun_uart *u, int line)
{
    if (!u->output_count || u->stalled)
        return;
    if (u->output_count >= UART_BATCH || (line && vmrun_now() - u->sent_at >= u->linger_ns))
        uart_send(u);
    else
        uart_plan(u);
}

/* One write that KVM has put by; 1 while there is one.  One caller at a time. */
static int uart_next(struct kvm_coalesced_mmio_ring *ring, uint8_t *byte)
{
    uint32_t most = (getpagesize() - sizeof *ring) / sizeof(struct kvm_coalesced_mmio);
    uint32_t first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE);
    if (first == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) || first >= most)
        return 0;
    *byte = ring->coalesced_mmio[first].data[0];
    __atomic_store_n(&ring->first, (first + 1) % most, __ATOMIC_RELEASE);
    return 1;
}
