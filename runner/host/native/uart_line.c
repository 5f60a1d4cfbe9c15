/* The serial port's other end: output on its way, and the bytes that KVM has put by.  For uart.c, which holds the
 * lock. */

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

/* As much as the sink takes now. */
static void uart_send(struct vmrun_uart *u)
{
    if (u->out.count)
        u->sent_at = vmrun_now();
    outlet_send(&u->out);
    u->stalled = u->out.count > 0;
    if (u->stalled)
        uart_plan(u);
}

/* Output has come, ``line``: with the end of one.  Whoever reads wakes up for it: a line goes out at once, but of
 * many in a row the first one only.  A slow reader is tried again by the timer, and not by every byte. */
static void uart_offer(struct vmrun_uart *u, int line)
{
    if (!u->out.count || u->stalled)
        return;
    if (u->out.count >= UART_BATCH || (line && vmrun_now() - u->sent_at >= u->linger_ns))
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
